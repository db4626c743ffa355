"""From a query to a PNG: latents, batch, tiles, encoding."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

from services.api.latents import draw_latents
from services.api.models import LoadedModel
from services.api.png import encode_png, tile
from services.api.schemas import GenerateQuery
from shared.errors import InvalidInput

MAX_SHEET_PIXELS = 1 << 24  # 4096 x 4096
TILE = 32


@dataclass(frozen=True)
class Sheet:
    png: bytes
    model_id: str
    seed: int


async def generate_sheet(query: GenerateQuery, model: LoadedModel) -> Sheet:
    """Raises InvalidInput for a class that the model does not have or a sheet that is too large, and Overloaded."""
    label = model.class_index(query.class_)
    pixels = query.n * (TILE * query.scale) ** 2
    if pixels > MAX_SHEET_PIXELS:
        raise InvalidInput.of(
            "scale",
            query.scale,
            f"{query.n} images at this scale are {pixels:,} pixels; {MAX_SHEET_PIXELS:,} are allowed",
        )
    model.check_room(query.n)  # before any work is put into it
    seed = secrets.randbelow(2**32) if query.seed is None else query.seed
    latents = await asyncio.to_thread(draw_latents, seed, range(query.n), model.manifest.latent_dim, query.truncation)
    images = await model.generate(latents, [label] * query.n)
    provenance = {
        "model": model.manifest.id,
        "digest": model.manifest.digest,
        "class": model.manifest.classes[label] if model.manifest.conditional else None,
        "seed": seed,
        "first_index": 0,
        "n": query.n,
        "truncation": query.truncation,
        "columns": query.columns,
        "scale": query.scale,
    }
    png = await asyncio.to_thread(lambda: encode_png(tile(images, query.columns, query.scale), provenance))
    return Sheet(png, model.manifest.id, seed)
