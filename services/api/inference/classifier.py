"""The classifier as the API uses it: opened at its first use, run in one thread, with a bounded queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from services.api.inference.bounded_pool import BoundedPool
from services.generator.classifier import Classifier
from shared.settings import Settings

MAX_PENDING_DRAWS = 40_000  # about 40 s of one core


class LazyClassifier:
    """Opens the classifier at its first use, and runs it in one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool = BoundedPool("rejection sampling", 1, MAX_PENDING_DRAWS, "draws")
        self._classifier: Classifier | None = None

    async def get(self) -> Classifier:
        """Raises NoModelReady, CorruptArtifact."""
        return await self._pool.run(self._open) if self._classifier is None else self._classifier

    @contextmanager
    def reserve(self, draws: int) -> Iterator[None]:
        """Reserves capacity for a request that will classify about `draws` images. Raises Overloaded."""
        with self._pool.reserve(draws):
            yield

    async def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As Classifier.probabilities; raises what `get` raises."""
        return await self._pool.run((await self.get()).probabilities, images)

    def _open(self) -> Classifier:
        self._classifier = self._classifier or Classifier(self._settings)
        return self._classifier
