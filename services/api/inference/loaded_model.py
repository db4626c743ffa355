"""A model in memory: its manifest, and the engine that runs it behind a batcher."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.api.inference.batcher import DynamicBatcher
from services.api.inference.engine import CUDA, OnnxEngine, lanes_of
from services.api.inference.latents import fill_latent
from services.api.inference.soft_labels import with_shares
from services.api.telemetry import Telemetry
from shared.errors import InvalidInput
from shared.settings import Settings
from shared.storage.model_registry import ModelManifest

MAX_BATCH = 64  # images that others may run at a time; more does not raise the CPU's rate

Pixels = NDArray[np.uint8]
Stream = tuple[int, int, float | None]  # seed, index, truncation
Value = TypeVar("Value")


def index_of_class(wanted: str | None, names: Sequence[str], knows: str) -> int:
    """A class's place among the names, by name or by number. Raises InvalidInput, which says who `knows` which."""
    if wanted in names:
        return names.index(wanted)
    if wanted is not None and wanted.isascii() and wanted.isdigit() and int(wanted[:9]) < len(names):
        return int(wanted[:9])
    raise InvalidInput.of("class", wanted, f"unknown class; {knows} {', '.join(names)}")


class Draw(NamedTuple):
    """One image to make: its class, and its latent vector or the number in its stream that stands for one."""

    latent: Stream | NDArray[np.float32]
    label: int


class LoadedModel:
    def __init__(self, manifest: ModelManifest, graph: bytes, settings: Settings, telemetry: Telemetry) -> None:
        """Opens and warms it. Raises CorruptArtifact, NoModelReady."""
        self.manifest, self._graph, self._settings = manifest, graph, settings
        # Threads of its own, which end by themselves when the model is garbage. A CUDA graph belongs to its thread.
        self._threads = ThreadPoolExecutor(lanes_of(settings), thread_name_prefix="lane")
        self._engine = self._threads.submit(
            OnnxEngine, graph, manifest.latent_dim, len(manifest.classes), settings
        ).result()
        self._mixer: OnnxEngine | None = None
        self._mixer_lock = threading.Lock()
        self.telemetry = telemetry.of_model(manifest.id, self.provider)
        # A device waits for nobody who encodes; on a CPU the lanes are its cores, and more threads bring nothing.
        finisher = ThreadPoolExecutor(2, thread_name_prefix="encode") if self.provider == CUDA else None
        self._batcher: DynamicBatcher[Draw, Pixels] = DynamicBatcher(
            self._run, self._threads, self._engine.max_batch, settings.max_waiting_images,
            lanes=self._engine.lanes, finisher=finisher, waited=self.telemetry.waited,
        )  # fmt: skip

    @property
    def provider(self) -> str:
        return self._engine.provider

    @property
    def waiting(self) -> int:
        """Images that are in no batch yet."""
        return self._batcher.waiting

    @property
    def memory_bytes(self) -> int:
        """By estimate: weights, as read and as onnxruntime packs them, and the buffers of all buckets."""
        return len(self._graph) + self._engine.memory_bytes + (self._mixer.memory_bytes if self._mixer else 0)

    def check_room(self, count: int) -> None:
        """Raises Overloaded when so many images find no place now, InvalidInput when they never would."""
        self._batcher.check_room(count)

    async def draw(self, draws: Sequence[Draw], finish: Callable[[list[Pixels]], Value]) -> Value:
        """What `finish` makes of the images [32, 32, 3] of the draws; it is called in a thread. Raises Overloaded."""

        def finish_and_tell(images: list[Pixels]) -> Value:
            began_s = time.perf_counter()
            value = finish(images)
            self.telemetry.encoded(began_s)
            return value

        return await self._batcher.submit_for(draws, finish_and_tell)

    async def generate(self, latents: NDArray[np.float32], labels: Sequence[int]) -> Pixels:
        """latents [N, latent], labels [N] -> pixels [N, 32, 32, 3]. Raises Overloaded."""
        draws = [Draw(latent, label) for latent, label in zip(latents, labels, strict=True)]
        return np.stack(await self._batcher.submit(draws))

    async def mix(self, latents: NDArray[np.float32], shares: NDArray[np.float32]) -> Pixels:
        """The same with shares of classes [N, classes] in place of labels.

        A model that has no embedding of its classes to mix gives to each image the class with the largest share.
        """
        self.check_room(len(latents))
        loop = asyncio.get_running_loop()
        mixer = await asyncio.to_thread(self._mixing)
        if mixer is None:
            return await self.generate(latents, shares.argmax(axis=1).tolist())
        return await loop.run_in_executor(self._threads, mixer.run, latents, shares)

    def _mixing(self) -> OnnxEngine | None:
        """Opened by the first who asks: few models are ever interpolated."""
        with self._mixer_lock:
            if self._mixer is None and (graph := with_shares(self._graph)) is not None:
                sizes = (self.manifest.latent_dim, len(self.manifest.classes), self._settings)
                self._mixer = self._threads.submit(OnnxEngine, graph, *sizes, takes_shares=True).result()
        return self._mixer

    def _run(self, draws: list[Draw]) -> list[Pixels]:
        began_s = time.perf_counter()
        z = np.empty((len(draws), self.manifest.latent_dim), dtype=np.float32)
        for row, (latent, _) in zip(z, draws, strict=True):
            if isinstance(latent, tuple):
                fill_latent(row, *latent)
            else:
                row[:] = latent
        images = self._engine.run(z, np.array([label for _, label in draws], dtype=np.int64))
        self.telemetry.ran(len(draws), began_s)
        return list(images)

    def class_name(self, wanted: str | None) -> str | None:
        """The name of a class by name or by number; None of an unconditional model. Raises InvalidInput."""
        label = self.class_index(wanted)
        return self.manifest.classes[label] if self.manifest.conditional else None

    def class_index(self, wanted: str | None) -> int:
        """The class by name or by number; 0 for an unconditional model, which ignores it.

        Raises InvalidInput that lists the names.
        """
        names = self.manifest.classes
        if not self.manifest.conditional:
            if wanted is not None:
                raise InvalidInput.of(
                    "class", wanted, f"model {self.manifest.id} is unconditional and knows no classes"
                )
            return 0
        return index_of_class(wanted, names, f"model {self.manifest.id} has")
