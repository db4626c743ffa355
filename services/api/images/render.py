"""The one path from a resolved request to its file: sample, then encode."""

from __future__ import annotations

import os
import time
from typing import Protocol, TypeVar

from services.api.images.generate import MAX_GRID_PIXELS
from services.api.images.response_cache import ImageResponse
from services.api.inference.bounded_pool import BoundedPool
from services.api.inference.loaded_model import LoadedModel

MAX_PENDING_PIXELS = 16 * MAX_GRID_PIXELS
QUICK_PIXELS = 128 * 128  # stored in 0.06 ms, less than a change of threads takes

Samples = TypeVar("Samples")


class ImageRequest(Protocol[Samples]):
    """A resolved request: `sample` runs the model, and `encode`, in another thread, writes the file."""

    @property
    def model(self) -> LoadedModel: ...

    @property
    def pixels(self) -> int: ...

    @property
    def is_stored(self) -> bool: ...  # whether the file is one PNG without compression

    async def sample(self) -> Samples: ...

    def encode(self, samples: Samples, /) -> ImageResponse: ...


def encoder_pool() -> BoundedPool:
    """Threads that encode, so that a large file delays neither the event loop nor the worker threads of models."""
    return BoundedPool("encoding", max(2, os.cpu_count() or 1), MAX_PENDING_PIXELS, "pixels")


async def render(request: ImageRequest[Samples], encoders: BoundedPool) -> ImageResponse:
    """Raises Overloaded, and whatever the request's `sample` raises."""
    with encoders.reserve(request.pixels):
        samples = await request.sample()
        if request.is_stored and request.pixels <= QUICK_PIXELS:
            return _encode(request, samples)
        return await encoders.run(_encode, request, samples)


def _encode(request: ImageRequest[Samples], samples: Samples) -> ImageResponse:
    began_s = time.perf_counter()
    response = request.encode(samples)
    request.model.telemetry.encoded(began_s)
    return response
