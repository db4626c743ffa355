"""From a query to a PNG: latents, batch, tiles, encoding."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from services.api.by_class import Wish, draw, headers_of
from services.api.judge import Bench
from services.api.models import LoadedModel
from services.api.png import encode_png, tile
from services.api.schemas import GenerateQuery
from shared.errors import InvalidInput

MAX_SHEET_PIXELS = 1 << 24  # 4096 x 4096
TILE = 32


@dataclass(frozen=True)
class Sheet:
    png: bytes
    headers: Mapping[str, str]


async def generate_sheet(query: GenerateQuery, model: LoadedModel, bench: Bench) -> Sheet:
    """Raises InvalidInput for a class that is not to be had or a sheet that is too large, and Overloaded."""
    pixels = query.n * (TILE * query.scale) ** 2
    if pixels > MAX_SHEET_PIXELS:
        raise InvalidInput.of(
            "scale",
            query.scale,
            f"{query.n} images at this scale are {pixels:,} pixels; {MAX_SHEET_PIXELS:,} are allowed",
        )
    seed = secrets.randbelow(2**32) if query.seed is None else query.seed
    wish = Wish([query.class_], query.n, seed, 0, query.truncation, query.threshold, query.max_draws)
    (drawn,) = await draw(wish, model, bench)
    provenance = {
        "model": model.manifest.id,
        "digest": model.manifest.digest,
        "class": drawn.name,
        "seed": seed,
        "first_index": 0,
        "n": query.n,
        "truncation": query.truncation,
        "columns": query.columns,
        "scale": query.scale,
    } | drawn.about
    png = await asyncio.to_thread(lambda: encode_png(tile(drawn.images, query.columns, query.scale), provenance))
    headers = {"X-Kiln-Model": model.manifest.id, "X-Kiln-Seed": str(seed)} | headers_of([drawn])
    return Sheet(png, headers)
