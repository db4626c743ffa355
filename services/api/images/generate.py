"""/generate: resolves a request, samples its images and encodes them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.api.images.class_names import class_index, split_classes
from services.api.images.class_sampling import (
    ClassSamples,
    ClassSamplingRequest,
    headers_of,
    method_of,
    rejection_sample,
)
from services.api.images.encoders import FORMATS, ImageGrid, columns_of
from services.api.images.response_cache import ImageResponse, etag_of
from services.api.inference.classifier import LazyClassifier
from services.api.inference.loaded_model import LoadedModel
from services.api.schemas.images import MAX_IMAGES, GenerateBody, GenerateQuery
from services.generator.classifier import Classifier
from services.generator.latents import stream_of
from services.generator.lossy import DEFAULT_QUALITY, MAX_SIDE
from shared.errors import InvalidInput

MAX_GRID_PIXELS = 1 << 24  # 4096 x 4096


@dataclass(frozen=True)
class GenerationRequest:
    """A fully resolved request for images. `etag` is set if the request is reproducible."""

    query: GenerateQuery | GenerateBody
    model: LoadedModel
    names: Sequence[str | None]  # the classes, one per row
    labels: Sequence[int]  # the model's, one per row; empty with a classifier
    seed: int
    etag: str | None
    classifier: LazyClassifier | None = None  # for rejection sampling

    @property
    def is_immutable(self) -> bool:
        """Whether the query names the model by its id and not by an alias, which may move."""
        return self.query.model == self.model.manifest.id

    @property
    def pixels(self) -> int:
        return len(self.names) * self.query.n * (self.model.manifest.resolution * self.query.scale) ** 2

    @property
    def is_stored(self) -> bool:
        return self.query.format == "png" and self.query.compress == "none"

    async def sample(self) -> list[ClassSamples]:
        """The images of each class. Raises Overloaded, and what `rejection_sample` raises."""
        query, model, n = self.query, self.model, self.query.n
        if self.classifier is not None:
            names = [name for name in self.names if name is not None]
            request = ClassSamplingRequest(
                names, n, self.seed, query.first_index, query.truncation, query.threshold, query.max_draws
            )
            return await rejection_sample(request, model, self.classifier)
        latents = stream_of(self.seed, range(query.first_index, query.first_index + n), query.truncation)
        images = await model.sample(latents * len(self.labels), [label for label in self.labels for _ in range(n)])
        method = method_of(model)
        return [ClassSamples(images[n * i : n * (i + 1)], name, method) for i, name in enumerate(self.names)]

    def encode(self, rows: list[ClassSamples]) -> ImageResponse:
        """The images as the requested file."""
        query, manifest = self.query, self.model.manifest
        provenance: dict[str, Any] = {
            "model": manifest.id, "digest": manifest.digest, "seed": self.seed, "truncation": query.truncation,
        }  # fmt: skip
        grid = ImageGrid(
            rows, provenance, query.first_index, query.columns, query.scale, query.compress,
            file_format=query.file_format, quality=query.quality or DEFAULT_QUALITY,
        )  # fmt: skip
        media_type, encode = FORMATS[query.format]
        headers = {"X-Kiln-Model": manifest.id, "X-Kiln-Seed": str(self.seed), **headers_of(rows)}
        return ImageResponse(encode(grid), media_type, headers, self.etag, self.is_immutable)


async def resolve_generation(
    query: GenerateQuery | GenerateBody, model: LoadedModel, classifier: LazyClassifier
) -> GenerationRequest:
    """Looks up the classes, checks the limits and draws a seed if the query has none.

    Raises InvalidInput for an unknown class, and for more images or pixels than allowed; NoModelReady when the classes
    of an unconditional model are requested and there is no classifier.
    """
    manifest = model.manifest
    opened: Classifier | None = None
    if manifest.conditional or query.class_ is None:
        _refuse_rejection_fields(query, model)
        classes, owner = manifest.classes, f"model '{manifest.id}'"
    else:
        opened = await classifier.get()
        classes, owner = opened.classes, "the classifier"
    requested = split_classes(query.class_, classes)
    if len(requested) * query.n > MAX_IMAGES:
        count = f"{query.n:,} images of {len(requested)} classes are {len(requested) * query.n:,}"
        raise InvalidInput.of("n", query.n, f"{count}; at most {MAX_IMAGES:,} images per request")
    check_size(len(requested) * query.n, query.columns, manifest.resolution, query.scale)
    _check_file_options(query, len(requested), manifest.resolution)
    names: list[str | None] = [None]
    labels = [0]  # an unconditional model ignores it
    if manifest.conditional or opened is not None:
        labels = [class_index(value, classes, owner) for value in requested]
        names = [classes[label] for label in labels]
    seed = secrets.randbelow(2**32) if query.seed is None else query.seed
    etag = None
    if query.seed is not None:
        rest = query.model_dump(exclude={"model", "class_"})
        digests = manifest.digest, opened and opened.digest
        etag = etag_of(model.provider, "generate", manifest.id, digests, names, rest)
    return GenerationRequest(query, model, names, labels, seed, etag, classifier if opened else None)


def _refuse_rejection_fields(query: GenerateQuery | GenerateBody, model: LoadedModel) -> None:
    for field in ("threshold", "max_draws"):
        if getattr(query, field) is not None:
            is_conditional, name = model.manifest.conditional, model.manifest.id
            reason = f"model '{name}' takes the class as input" if is_conditional else "no class is requested"
            message = f"only rejection sampling uses this field, and {reason}; leave it out"
            raise InvalidInput.of(field, getattr(query, field), message)


def _check_file_options(query: GenerateQuery | GenerateBody, rows: int, resolution: int) -> None:
    """Raises InvalidInput for options that the requested format does not have, and for a grid beyond its limits."""
    file_format = query.file_format
    if query.files is not None and query.format != "zip":
        raise InvalidInput.of("files", query.files, "only format=zip has files; leave it out, or set format=zip")
    if file_format == "png":
        if query.quality is not None:
            message = "only JPEG and WebP files have a quality; leave it out, or choose such a format"
            raise InvalidInput.of("quality", query.quality, message)
        return
    if query.compress != "none":
        raise InvalidInput.of("compress", query.compress, f"only PNG files have it; set quality for {file_format}")
    if query.format == "zip":
        return
    columns = columns_of(rows, query.n, query.columns)
    lines = math.ceil(rows * query.n / columns)
    side, limit = resolution * query.scale * max(columns, lines), MAX_SIDE[file_format]
    if side > limit:
        message = f"the grid's longer side has {side:,} pixels; a {file_format} file has at most {limit:,}: set columns"
        raise InvalidInput.of("columns", query.columns, message)


def check_size(count: int, columns: int | None, resolution: int, scale: int) -> None:
    """Raises InvalidInput when a grid of `count` tiles, black ones included, has too many pixels."""
    tiles = count if columns is None else max(count, columns * math.ceil(count / columns))
    pixels = tiles * (resolution * scale) ** 2
    if pixels > MAX_GRID_PIXELS:
        field, value = ("scale", scale) if scale > 1 else ("n", count)
        message = (
            f"{tiles} tiles of {resolution} pixels at scale {scale} are {pixels:,} pixels; at most "
            f"{MAX_GRID_PIXELS:,} are allowed"
        )
        raise InvalidInput.of(field, value, message)
