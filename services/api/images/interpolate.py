"""/interpolate: images between two images, on a great circle in latent space and linear between two classes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

from services.api.images.class_names import class_index
from services.api.images.generate import check_size
from services.api.images.response_cache import ImageResponse, etag_of
from services.api.inference.loaded_model import LoadedModel, Pixels
from services.api.schemas.images import InterpolateQuery
from services.generator.latents import Latent
from services.generator.png import encode_apng, encode_png, enlarge, tile
from shared.errors import InvalidInput


@dataclass(frozen=True)
class InterpolationRequest:
    """A fully resolved request for a path. `etag` is set if the request is reproducible."""

    query: InterpolateQuery
    model: LoadedModel
    labels: tuple[int, int]  # of the first and the last image
    seed: int
    etag: str | None

    @property
    def is_immutable(self) -> bool:
        """Whether the query names the model by its id and not by an alias, which may move."""
        return self.query.model == self.model.manifest.id

    @property
    def pixels(self) -> int:
        return self.query.steps * (self.model.manifest.resolution * self.query.scale) ** 2

    @property
    def is_stored(self) -> bool:
        return self.query.format == "png" and self.query.compress == "none"

    async def sample(self) -> Pixels:
        """[steps, H, W, C]; the first and the last are images of /generate. Raises Overloaded."""
        query, (start, end) = self.query, self.labels
        positions = np.linspace(0.0, 1.0, query.steps)
        latents = [
            Latent(self.seed, query.from_index, query.truncation, query.to_index, position)
            for position in positions.tolist()
        ]
        if start == end:
            return await self.model.sample(latents, [start] * query.steps)
        weights = np.zeros((query.steps, len(self.model.manifest.classes)), dtype=np.float32)
        weights[:, end] = positions
        weights[:, start] = 1 - weights[:, end]
        return await self.model.sample(latents, weights)

    def encode(self, images: Pixels) -> ImageResponse:
        """The images as a strip or an animation."""
        query, manifest = self.query, self.model.manifest
        start, end = (manifest.classes[label] if manifest.conditional else None for label in self.labels)
        provenance = {
            "model": manifest.id, "digest": manifest.digest, "seed": self.seed, "from": start, "to": end,
        } | query.model_dump(exclude={"model", "seed", "from_", "to"})  # fmt: skip
        if query.format == "apng":
            body = encode_apng(enlarge(images, query.scale), provenance, query.frame_ms)
        else:
            body = encode_png(tile(images, query.columns or query.steps, query.scale), provenance, query.compress)
        headers = {"X-Kiln-Model": manifest.id, "X-Kiln-Seed": str(self.seed)}
        return ImageResponse(body, f"image/{query.format}", headers, self.etag, self.is_immutable)


def resolve_interpolation(query: InterpolateQuery, model: LoadedModel) -> InterpolationRequest:
    """Raises InvalidInput for classes that the model does not have, and for more pixels than allowed."""
    check_size(query.steps, query.columns, model.manifest.resolution, query.scale)
    labels = _label(model, "from", query.from_), _label(model, "to", query.to)
    seed = secrets.randbelow(2**32) if query.seed is None else query.seed
    etag = None
    if query.seed is not None:
        manifest, rest = model.manifest, query.model_dump(exclude={"model", "from_", "to"})
        etag = etag_of(model.provider, "interpolate", manifest.id, manifest.digest, labels, rest)
    return InterpolationRequest(query, model, labels, seed, etag)


def _label(model: LoadedModel, field: str, value: str | None) -> int:
    manifest = model.manifest
    if manifest.conditional:
        return class_index(value, manifest.classes, f"model '{manifest.id}'", field)
    if value is not None:
        raise InvalidInput.of(field, value, f"model '{manifest.id}' is unconditional and has no classes; leave it out")
    return 0
