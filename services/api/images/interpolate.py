"""From one image to another in steps: along the sphere in z, in a straight line in the embedding of the classes."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import numpy as np

from services.api.images.generate import check_size
from services.api.images.png import encode_apng, encode_png, enlarge, tile
from services.api.images.response_cache import ImageResponse, etag_of
from services.api.inference.latents import draw_latents, slerp
from services.api.inference.loaded_model import LoadedModel, Pixels
from services.api.schemas.images import InterpolateQuery
from shared.errors import InvalidInput


class Interpolation:
    """A question about one model, its classes looked up. `etag` names the answer if the question has a seed."""

    def __init__(self, query: InterpolateQuery, model: LoadedModel) -> None:
        """Raises InvalidInput for classes that the model does not have, and for a strip that is too large."""
        check_size(query.steps, query.columns, query.scale)
        self.query, self.model = query, model
        self._ends = tuple(
            _class_index(model, field, name) for field, name in (("from", query.from_), ("to", query.to))
        )
        self.seed = secrets.randbelow(2**32) if query.seed is None else query.seed
        manifest, rest = model.manifest, query.model_dump(exclude={"model", "from_", "to"})
        parts = ("interpolate", manifest.id, manifest.digest, model.provider, self._ends, rest)
        self.etag = etag_of(*parts) if query.seed is not None else None

    @property
    def is_fixed(self) -> bool:
        """Whether the model is named by itself and not by an alias, which may move."""
        return self.query.model == self.model.manifest.id

    async def answer(self) -> ImageResponse:
        """Raises Overloaded. The first and the last image are those of /generate."""
        query, manifest = self.query, self.model.manifest
        images = await self._images()
        name = {label: manifest.classes[label] if manifest.conditional else None for label in self._ends}
        provenance = {
            "model": manifest.id, "digest": manifest.digest, "seed": self.seed,
            "from": name[self._ends[0]], "to": name[self._ends[1]],
        } | query.model_dump(exclude={"model", "seed", "from_", "to"})  # fmt: skip
        headers = {"X-Kiln-Model": manifest.id, "X-Kiln-Seed": str(self.seed)}
        media_type, body = await asyncio.to_thread(_encode, images, query, provenance)
        return ImageResponse(body, media_type, headers, self.etag, self.is_fixed)

    async def _images(self) -> Pixels:
        query, steps = self.query, self.query.steps
        indices = (query.from_index, query.to_index)
        start, end = draw_latents(self.seed, indices, self.model.manifest.latent_dim, query.truncation)
        z = slerp(start, end, steps)
        if self._ends[0] == self._ends[1]:
            return await self.model.generate(z, [self._ends[0]] * steps)
        shares = np.zeros((steps, len(self.model.manifest.classes)), dtype=np.float32)
        shares[:, self._ends[1]] = np.linspace(0.0, 1.0, steps)
        shares[:, self._ends[0]] = 1 - shares[:, self._ends[1]]
        return await self.model.mix(z, shares)


def _encode(images: Pixels, query: InterpolateQuery, provenance: dict[str, Any]) -> tuple[str, bytes]:
    if query.format == "apng":
        return "image/apng", encode_apng(enlarge(images, query.scale), provenance, query.frame_ms)
    sheet = tile(images, query.columns or query.steps, query.scale)
    return "image/png", encode_png(sheet, provenance, query.compress)


def _class_index(model: LoadedModel, field: str, wanted: str | None) -> int:
    """Raises InvalidInput that names the field."""
    try:
        return model.class_index(wanted)
    except InvalidInput as error:
        raise InvalidInput.of(field, wanted, error.problems[0].message) from None
