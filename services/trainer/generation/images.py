"""Generates images with a published model on all cores, and classifies them if the job has a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from services.generator.classifier import Classifier
from services.generator.devices import CUDA
from services.generator.engine import OnnxEngine
from services.generator.latents import draw_latents, stream_of
from shared.configs.generate import GenerateConfig
from shared.settings import Settings
from shared.storage.model_registry import ModelManifest


class Draw(NamedTuple):
    """One image to generate: `number` counts within the job's seed, with a label of the model (0 if unconditional)."""

    label: int
    number: int


class MadeImage(NamedTuple):
    draw: Draw
    pixels: NDArray[np.uint8]  # [H, W, 3]
    probabilities: NDArray[np.float32] | None  # [K], of the classifier's classes


class ImageMaker:
    """A model, and the classifier that filters its images, behind a pool of threads. Use it as a context manager."""

    def __init__(
        self, config: GenerateConfig, manifest: ModelManifest, graph: bytes, settings: Settings,
        classifier: Classifier | None = None,
    ) -> None:  # fmt: skip
        """Opens and warms the model. Raises CorruptArtifact, NoModelReady."""
        self.manifest, self.classifier = manifest, classifier
        self._seed, self._truncation = config.seed, config.truncation
        # A CUDA graph belongs to the thread that captured it, so there one thread opens the model and runs it.
        opener = ThreadPoolExecutor(1)
        opening = opener.submit(OnnxEngine, graph, manifest.latent_dim, len(manifest.classes), settings)
        self._engine = opening.result()
        self._pool = opener if self.provider == CUDA else ThreadPoolExecutor(self._engine.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def provider(self) -> str:
        return self._engine.provider

    @property
    def workers(self) -> int:
        return self._engine.workers

    @property
    def warning(self) -> str | None:
        """One line about a problem with the device that the model runs on; None if there is none."""
        return self._engine.warning

    def make(self, draws: Sequence[Draw]) -> Iterator[list[MadeImage]]:
        """The images of the draws, in their order, batch by batch."""
        size = self._engine.max_batch
        return self._pool.map(self._make, [draws[i : i + size] for i in range(0, len(draws), size)])

    def _make(self, draws: Sequence[Draw]) -> list[MadeImage]:
        latents = stream_of(self._seed, [draw.number for draw in draws], self._truncation)
        labels = np.array([draw.label for draw in draws], dtype=np.int64)
        pixels = self._engine.run(draw_latents(latents, self._engine.latent_dim), labels)
        if self.classifier is None:
            return [MadeImage(draw, image, None) for draw, image in zip(draws, pixels, strict=True)]
        probabilities = self.classifier.probabilities(pixels)
        return [MadeImage(*one) for one in zip(draws, pixels, probabilities, strict=True)]
