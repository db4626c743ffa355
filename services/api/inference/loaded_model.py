"""A model in memory: its manifest, and the engines that run it behind a batcher."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.api.inference.batcher import DynamicBatcher
from services.api.telemetry import ModelTelemetry, Telemetry
from services.generator.devices import CUDA
from services.generator.engine import OnnxEngine
from services.generator.latents import Latent, draw_latents
from services.generator.soft_labels import with_soft_labels
from shared.settings import Settings
from shared.storage.model_registry import ModelManifest

MAX_BATCH = 64  # images that callers should sample at a time; more are not faster on a CPU

Pixels = NDArray[np.uint8]
SoftLabel = NDArray[np.float32]  # [classes], which sum to 1

log = logging.getLogger("kiln.models")


class Sample(NamedTuple):
    """One image to generate: its latent vector, and its class or the weight of each class."""

    latent: Latent
    label: int | SoftLabel


class LoadedModel:
    """A model that is ready to generate: `sample` runs it.

    It has no reference cycles, so its memory is freed with the last reference.
    """

    def __init__(self, manifest: ModelManifest, graph: bytes, settings: Settings, telemetry: Telemetry) -> None:
        """Opens and warms the model. Raises CorruptArtifact, NoModelReady."""
        self.manifest, self._graph, self._settings = manifest, graph, settings
        # A CUDA graph belongs to the thread that captured it, so there one thread opens the model and runs it. All
        # these threads end when the model is freed.
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._engine = self._opener.submit(
            OnnxEngine, graph, manifest.latent_dim, len(manifest.classes), settings
        ).result()
        workers, is_on_cuda = self._engine.workers, self.provider == CUDA
        threads = self._opener if is_on_cuda else ThreadPoolExecutor(workers, thread_name_prefix="inference")
        self.telemetry = telemetry.of_model(manifest.id, self.provider)
        self._runner = _Runner(self._engine, self.telemetry)
        self._opening_soft_labels: asyncio.Future[None] | None = None
        self._batcher: DynamicBatcher[Sample, Pixels] = DynamicBatcher(
            self._runner.run, threads, self._engine.max_batch, settings.max_waiting_images, workers=workers,
            on_wait=self.telemetry.waited,
        )  # fmt: skip
        self._log_buckets()

    @property
    def provider(self) -> str:
        return self._engine.provider

    @property
    def warning(self) -> str | None:
        """One line about a problem with the device that the model runs on; None if there is none."""
        return self._engine.warning

    @property
    def waiting(self) -> int:
        """Images that are in no batch yet."""
        return self._batcher.waiting

    @property
    def memory_bytes(self) -> int:
        """Estimated: the weights, as read and as onnxruntime packs them, and the buffers of all buckets."""
        soft = self._runner.soft_engine
        return len(self._graph) + self._engine.memory_bytes + (soft.memory_bytes if soft else 0)

    async def sample(self, latents: Sequence[Latent], labels: Sequence[int] | NDArray[np.float32]) -> Pixels:
        """latents [N], labels [N] or soft labels [N, classes] -> pixels [N, H, W, C].

        A model without an embedding of its classes generates the class with the largest weight. Raises Overloaded when
        the queue is full, and InvalidInput for more images than the queue holds.
        """
        self._batcher.check_capacity(len(latents))
        if isinstance(labels, np.ndarray) and not await self._takes_soft_labels():
            labels = labels.argmax(axis=1).tolist()
        samples = [Sample(latent, label) for latent, label in zip(latents, labels, strict=True)]
        return np.stack(await self._batcher.submit(samples))

    async def _takes_soft_labels(self) -> bool:
        """Opens the engine for soft labels at the first call, because few models are ever interpolated."""
        if self._opening_soft_labels is None:
            self._opening_soft_labels = asyncio.get_running_loop().run_in_executor(
                self._opener, self._runner.open_soft_engine, self._graph, self._settings
            )
        await asyncio.shield(self._opening_soft_labels)  # other requests may wait for the same engine
        return self._runner.soft_engine is not None

    def _log_buckets(self) -> None:
        engine, model_id = self._engine, self.manifest.id
        sizes = ", ".join(map(str, engine.buckets))
        if missing := sorted(set(engine.expected_buckets) - set(engine.buckets)):
            log.warning(
                "model %s: usable batch sizes %s on %s; serving is slower without %s, whose last bits differ",
                model_id, sizes, self.provider, ", ".join(map(str, missing)),
            )  # fmt: skip
        else:
            log.info("model %s: usable batch sizes %s on %s", model_id, sizes, self.provider)
        if self.warning:
            log.warning("model %s: %s", model_id, self.warning)


class _Runner:
    """Runs batches of samples. It has no reference to the LoadedModel, so the batcher keeps no model alive."""

    def __init__(self, engine: OnnxEngine, telemetry: ModelTelemetry) -> None:
        self._engine, self._telemetry = engine, telemetry
        self.soft_engine: OnnxEngine | None = None  # None until opened, and for models without an embedding

    def open_soft_engine(self, graph: bytes, settings: Settings) -> None:
        """Raises CorruptArtifact."""
        if (graph_with_weights := with_soft_labels(graph)) is not None:
            sizes = self._engine.latent_dim, self._engine.num_classes
            self.soft_engine = OnnxEngine(graph_with_weights, *sizes, settings, takes_soft_labels=True)

    def run(self, samples: list[Sample]) -> list[Pixels]:
        began_s = time.perf_counter()
        z = draw_latents([sample.latent for sample in samples], self._engine.latent_dim)
        labels = [sample.label for sample in samples]
        if self.soft_engine is None or not any(isinstance(label, np.ndarray) for label in labels):
            images = [*self._engine.run(z, np.array(labels, dtype=np.int64))]
        else:
            images = self._run_mixed(z, labels, self.soft_engine)
        self._telemetry.ran(len(samples), began_s)
        return images

    def _run_mixed(
        self, z: NDArray[np.float32], labels: Sequence[int | SoftLabel], soft_engine: OnnxEngine
    ) -> list[Pixels]:
        is_soft = np.array([isinstance(label, np.ndarray) for label in labels])
        pixels: dict[int, Pixels] = {}
        for engine, rows, dtype in ((self._engine, ~is_soft, np.int64), (soft_engine, is_soft, np.float32)):
            if positions := np.flatnonzero(rows).tolist():
                images = engine.run(z[rows], np.array([labels[row] for row in positions], dtype=dtype))
                pixels |= zip(positions, images, strict=True)
        return [pixels[row] for row in range(len(labels))]
