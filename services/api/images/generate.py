"""From a question to an answer: which images, which classes, which file."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.api.images.class_sampling import (
    ClassSamples,
    ClassSamplingRequest,
    headers_of,
    method_of,
    rejection_sample,
)
from services.api.images.encoders import FORMATS, ImageGrid
from services.api.images.response_cache import ImageResponse, etag_of
from services.api.inference.classifier import LazyClassifier
from services.api.inference.loaded_model import Draw, LoadedModel, Pixels
from services.api.schemas.images import MAX_IMAGES, GenerateBody, GenerateQuery
from shared.errors import InvalidInput

MAX_SHEET_PIXELS = 1 << 24  # 4096 x 4096
TILE = 32


@dataclass(frozen=True)
class GenerationRequest:
    """What is to be made, with nothing left open. `etag` names the answer, if the same question always gets it."""

    query: GenerateQuery | GenerateBody
    model: LoadedModel
    names: Sequence[str | None]  # the classes, one for each row
    seed: int
    etag: str | None
    classifier: LazyClassifier | None = None  # where images are judged, of a model that cannot be told a class

    @property
    def is_fixed(self) -> bool:
        """Whether the model is named by itself and not by an alias, which may move."""
        return self.query.model == self.model.manifest.id

    async def answer(self) -> ImageResponse:
        """Raises Overloaded, and what `sift` raises."""
        query, model, n = self.query, self.model, self.query.n
        if self.classifier is not None:
            names = [name for name in self.names if name is not None]
            request = ClassSamplingRequest(
                names, n, self.seed, query.first_index, query.truncation, query.threshold, query.max_draws
            )
            return await asyncio.to_thread(pack, self, await rejection_sample(request, model, self.classifier))
        indices = range(query.first_index, query.first_index + n)
        labels = [model.class_index(name) for name in self.names]
        draws = [Draw((self.seed, index, query.truncation), label) for label in labels for index in indices]
        method = method_of(model)

        def pack_rows(images: list[Pixels]) -> ImageResponse:
            parts = (np.stack(images[start : start + n]) for start in range(0, len(images), n))
            return pack(self, [ClassSamples(part, name, method) for part, name in zip(parts, self.names, strict=True)])

        return await model.draw(draws, pack_rows)


async def resolve_generation(
    query: GenerateQuery | GenerateBody, model: LoadedModel, classifier: LazyClassifier
) -> GenerationRequest:
    """Raises InvalidInput for a class that is not to be had, and for more images or pixels than are allowed.

    A model that knows no classes can be asked for those of the classifier: NoModelReady if there is none.
    """
    is_told = model.manifest.conditional or query.class_ is None
    if is_told:
        _refuse_judging(query, model)
        wanted = _split(query.class_, model.manifest.classes)
        names = [model.class_name(name) for name in wanted]
        judged_by = None
    else:
        judge = await classifier.judge()
        names, judged_by = _split(query.class_, judge.classes), judge.digest
    count = query.n * len(names)
    if count > MAX_IMAGES:
        message = f"{query.n:,} images of {len(names)} classes are {count:,}; {MAX_IMAGES:,} are allowed at a time"
        raise InvalidInput.of("n", query.n, message)
    check_size(count, query.columns, query.scale)
    if query.seed is None:
        return GenerationRequest(query, model, names, secrets.randbelow(2**32), None, None if is_told else classifier)
    rest = query.model_dump(exclude={"model", "class_"})
    etag = etag_of(model.manifest.id, model.manifest.digest, model.provider, judged_by, names, rest)
    return GenerationRequest(query, model, names, query.seed, etag, None if is_told else classifier)


def _split(wanted: str | Sequence[str] | None, names: Sequence[str]) -> list[str | None]:
    """One class, or several as a list or with commas, or `all`. A name may itself have commas in it, or be "all"."""
    if wanted is None or not isinstance(wanted, str):
        return [None] if wanted is None else list(wanted)
    if wanted in names:
        return [wanted]
    return list(names) if wanted == "all" else [part.strip() for part in wanted.split(",")]


def _refuse_judging(query: GenerateQuery | GenerateBody, model: LoadedModel) -> None:
    for field in ("threshold", "max_draws"):
        if getattr(query, field) is not None:
            why = "told its class; nothing is drawn in vain" if model.manifest.conditional else "asked for no class"
            raise InvalidInput.of(field, getattr(query, field), f"model {model.manifest.id} is {why}")


def check_size(count: int, columns: int | None, scale: int) -> None:
    """Raises InvalidInput when so many tiles, those that stay black included, are too large a sheet."""
    tiles = count if columns is None else max(count, columns * math.ceil(count / columns))
    pixels = tiles * (TILE * scale) ** 2
    if pixels > MAX_SHEET_PIXELS:
        message = f"{tiles} tiles at this scale are {pixels:,} pixels; {MAX_SHEET_PIXELS:,} are allowed"
        raise InvalidInput.of("scale", scale, message)


def pack(order: GenerationRequest, rows: Sequence[ClassSamples]) -> ImageResponse:
    """The images of each class as the answer that was asked for."""
    query, manifest = order.query, order.model.manifest
    about: dict[str, Any] = {
        "model": manifest.id, "digest": manifest.digest, "seed": order.seed, "truncation": query.truncation,
    }  # fmt: skip
    picture = ImageGrid(rows, about, query.first_index, query.columns, query.scale, query.compress)
    media_type, encode = FORMATS[query.format]
    headers = {"X-Kiln-Model": manifest.id, "X-Kiln-Seed": str(order.seed), **headers_of(rows)}
    return ImageResponse(encode(picture), media_type, headers, order.etag, order.is_fixed)
