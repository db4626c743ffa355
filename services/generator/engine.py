"""Opens, checks, warms and runs a published generator in onnxruntime."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.generator.devices import CPU, CUDA, CUDA_NOT_LOADED, has_cuda_device, providers_for
from services.generator.io_bindings import Binding, CpuBinding, CudaBinding
from services.generator.soft_labels import SOFT_LABELS
from shared.configs.train import RESOLUTIONS
from shared.errors import CorruptArtifact, NoModelReady
from shared.settings import Settings

log = logging.getLogger("kiln.models")

BUCKETS = {CPU: (1, 2, 4, 8, 16, 32, 64), CUDA: (1, 2, 4, 8, 16, 32, 64, 128, 256)}
MIN_BATCH = 32  # each batch has a fixed cost in Python, which its images share: docs/explanation/performance.md
CALL_OVERHEAD_S = 1e-4  # roughly what a call of onnxruntime costs besides its work
MAX_CLASSES = 1000
MAX_LATENT = 1 << 16
WARM_UPS = {CPU: 2, CUDA: 4}  # on CUDA two runs allocate, and the third is captured
TANH_TOLERANCE = 1e-3  # how far outside [-1, 1] a generator's output may be


class OnnxEngine:
    """One onnxruntime session, which `workers` threads may run at the same time.

    A batch is made up of buckets: batch sizes that were warmed, and whose images are the same to the bit whatever else
    is in the batch. So an image depends on its latent vector and class alone.
    """

    def __init__(
        self, graph: bytes, latent_dim: int, num_classes: int, settings: Settings, *, takes_soft_labels: bool = False
    ) -> None:
        """Opens and warms the model; `takes_soft_labels` for a graph of `with_soft_labels`.

        Raises CorruptArtifact if the graph is not a generator with the expected signature or its first batch is
        invalid, and NoModelReady if CUDA is required and absent.
        """
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self._takes_soft_labels = takes_soft_labels
        self._uses_cuda_graphs = has_cuda_device()
        try:
            seconds = self._open_and_warm(graph, settings)
        except NoModelReady:
            raise
        except Exception as error:
            if not self._uses_cuda_graphs:
                raise
            # Control flow is refused when the session opens, a node without a CUDA kernel when it is captured.
            log.warning("this model runs without CUDA graphs: %s", error)
            self._uses_cuda_graphs = False
            seconds = self._open_and_warm(graph, settings)
        self.buckets = tuple(sorted(seconds))
        self._plan = min_cost_buckets(seconds)
        rates = {size: size / seconds[size] for size in self.buckets}
        enough = min(size for size in self.buckets if rates[size] >= 0.95 * max(rates.values()))
        self.max_batch = max(MIN_BATCH, enough)
        images = self.workers * sum(self.buckets)
        self.memory_bytes = 2 * len(graph) + images * (latent_dim + np.prod(self.image_shape).item()) * 4

    @property
    def expected_buckets(self) -> Sequence[int]:
        """All batch sizes that were tried; `buckets` are those that may be used."""
        return BUCKETS[self.provider]

    @property
    def warning(self) -> str | None:
        """One line about a problem with the device that the model runs on; None if there is none."""
        return CUDA_NOT_LOADED if has_cuda_device() and self.provider != CUDA else None

    def _open_and_warm(self, graph: bytes, settings: Settings) -> dict[int, float]:
        """-> seconds of each bucket that may be used"""
        self._session = self._open(graph, settings)
        self.provider: str = self._session.get_providers()[0]
        if settings.require_cuda and self.provider != CUDA:
            raise NoModelReady(f"KILN_REQUIRE_CUDA is set, but onnxruntime runs on {self.provider}")
        # A CUDA graph belongs to the thread that captured it; on a CPU a run of one thread each keeps a core busy.
        self.workers = 1 if self.provider == CUDA else settings.threads or os.cpu_count() or 1
        self._check_signature()
        self._check_images()
        self._slots, seconds = self._warm()
        return seconds

    def run(self, z: NDArray[np.float32], classes: NDArray[Any]) -> NDArray[np.uint8]:
        """z [N, latent], labels [N] or soft labels [N, classes] -> pixels [N, H, W, C], 0..255."""
        channels, height, width = self.image_shape
        pixels = np.empty((len(z), height, width, channels), dtype=np.uint8)
        slot = self._slots.pop()  # there is one for each worker
        try:
            start = 0
            for size in self._sizes(len(z)):
                stop = min(start + size, len(z))
                images = _run(slot[size], z[start:stop], classes[start:stop])
                to_pixels(images, out=pixels[start:stop])
                start = stop
        finally:
            self._slots.append(slot)
        return pixels

    def _sizes(self, count: int) -> Sequence[int]:
        """Buckets for `count` images; the last one may have room left."""
        largest = self.buckets[-1]
        return (*[largest] * (count // largest), *self._plan[count % largest])

    def _open(self, graph: bytes, settings: Settings) -> Any:
        options = onnxruntime.SessionOptions()
        # The workers run in parallel: two runs of one thread each do not wait for each other after every node.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        providers = providers_for(settings, cuda_graphs=self._uses_cuda_graphs)
        try:
            return onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise CorruptArtifact(f"onnxruntime cannot open the generator: {error}") from error

    def _check_signature(self) -> None:
        inputs = {i.name: (i.type, len(i.shape)) for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        classes = {SOFT_LABELS: ("tensor(float)", 2)} if self._takes_soft_labels else {"labels": ("tensor(int64)", 1)}
        expected = {"z": ("tensor(float)", 2)} | classes
        if inputs != expected or outputs != {"images": "tensor(float)"}:
            raise CorruptArtifact(f"not a generator: inputs {inputs}, outputs {outputs}")
        self.image_shape = self._read_image_shape()
        # Checked before the sizes in the manifest allocate any memory.
        (length,) = (i.shape[1] for i in self._session.get_inputs() if i.name == "z")
        if (isinstance(length, int) and length != self.latent_dim) or self.latent_dim > MAX_LATENT:
            raise CorruptArtifact(f"the graph takes {length} latent values, but the manifest says {self.latent_dim}")

    def _read_image_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the graph's images. Raises CorruptArtifact unless they are square, grey or in colour."""
        _, *shape = self._session.get_outputs()[0].shape
        if shape not in [[channels, side, side] for channels in (1, 3) for side in RESOLUTIONS]:
            raise CorruptArtifact(
                f"the generator makes images of the shape {shape}; Kiln serves squares of {RESOLUTIONS}"
            )
        return shape[0], shape[1], shape[2]

    def _check_images(self) -> None:
        """Runs one batch that contains every class, because a damaged row of an embedding affects one class only."""
        if not 0 < self.num_classes <= MAX_CLASSES:
            raise CorruptArtifact(f"the model has {self.num_classes} classes; Kiln serves models of 1 to {MAX_CLASSES}")
        z, classes = self._probe(max(4, self.num_classes))
        options = onnxruntime.RunOptions()
        if self.provider == CUDA:
            options.add_run_config_entry("gpu_graph_id", "-1")  # no capture, because this batch size runs only once
        try:
            (images,) = self._session.run(["images"], {"z": z, self._class_input: classes}, options)
        except Exception as error:
            raise CorruptArtifact(f"the generator fails on its first batch: {error}") from error
        if images.shape != (len(z), *self.image_shape):
            raise CorruptArtifact(f"the generator's first batch has the shape {images.shape}")
        if not np.isfinite(images).all():
            raise CorruptArtifact("the generator's first batch has values that are not finite")
        if np.abs(images).max() > 1 + TANH_TOLERANCE:
            raise CorruptArtifact("the generator's first batch has values outside [-1, 1]")

    def _warm(self) -> tuple[deque[dict[int, Binding]], dict[int, float]]:
        """Runs every bucket. -> (bindings of each worker, seconds of each bucket that may be used)

        Another batch size may run another kernel, which rounds differently. Only buckets whose output is bit-identical
        to the largest bucket's, at both ends, are used. If the largest bucket's own output changes when its images
        move, only single images are bit-identical, and only they are used.
        """
        sizes = BUCKETS[self.provider]
        z, classes = self._probe(sizes[-1])
        slot = {size: self._bind(size) for size in sizes}
        expected = self._run_warm(slot[sizes[-1]], z, classes)[0]
        # The same images, one place further and beside others: the second half is now all of one class.
        half = sizes[-1] // 2
        others = np.concatenate([classes[-1:], classes[: half - 1], np.repeat(classes[:1], half, axis=0)])
        moved, _ = self._run_warm(slot[sizes[-1]], np.roll(z, 1, axis=0), others)
        seconds: dict[int, float] = {}
        for size in sizes:
            head, _ = self._run_warm(slot[size], z[:size], classes[:size])
            tail, seconds[size] = self._run_warm(slot[size], z[-size:], classes[-size:])
            if not (np.array_equal(head, expected[:size]) and np.array_equal(tail, expected[-size:])):
                del seconds[size]
        if not np.array_equal(moved[1:half], expected[: half - 1]):
            seconds = {1: self._run_warm(slot[1], z[:1], classes[:1])[1]}
        slots = [{size: slot[size] for size in seconds}]
        slots += [{size: self._bind(size) for size in seconds} for _ in range(self.workers - 1)]
        return deque(slots), seconds

    def _run_warm(
        self, binding: Binding, z: NDArray[np.float32], classes: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float]:
        """-> (images, seconds of the fastest run)"""
        seconds = []
        for _ in range(WARM_UPS[self.provider] // 2):
            # On a CPU the run is in this thread, and other work on the machine does not count in its own time.
            clock_s = time.perf_counter if self.provider == CUDA else time.thread_time
            began_s = clock_s()
            images = _run(binding, z, classes)
            seconds.append(clock_s() - began_s)
        return images.copy(), min(seconds)

    def _bind(self, size: int) -> Binding:
        shape = (size, self.num_classes) if self._takes_soft_labels else (size,)
        classes = np.zeros(shape, dtype=np.float32 if self._takes_soft_labels else np.int64)
        if self.provider != CUDA:
            return CpuBinding(self._session, (size, *self.image_shape), self.latent_dim, classes, self._class_input)
        graph_id = size if self._uses_cuda_graphs else None
        return CudaBinding(
            self._session, (size, *self.image_shape), self.latent_dim, classes, self._class_input, graph_id=graph_id
        )

    def _probe(self, count: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Latent vectors and classes to try the model with; every class if `count` allows."""
        z = np.random.default_rng(0).standard_normal((count, self.latent_dim), dtype=np.float32)
        labels = np.arange(count, dtype=np.int64) % self.num_classes
        return z, np.eye(self.num_classes, dtype=np.float32)[labels] if self._takes_soft_labels else labels

    @property
    def _class_input(self) -> str:
        return SOFT_LABELS if self._takes_soft_labels else "labels"


def _run(binding: Binding, z: NDArray[np.float32], classes: NDArray[Any]) -> NDArray[np.float32]:
    """Images of a batch that may be smaller than the bucket; the rest of the buffer keeps older values."""
    count = len(z)
    binding.z[:count] = z
    binding.classes[:count] = classes
    return binding.run()[:count]


def min_cost_buckets(seconds: Mapping[int, float]) -> list[tuple[int, ...]]:
    """For each count below the largest bucket: the buckets that run that many images in the least time.

    Where time grows with the images, as on a CPU, 13 images are 8 + 4 + 1; where the call dominates, they are 16.
    """
    covers: list[tuple[int, ...]] = [()]
    costs = [0.0]
    for count in range(1, max(seconds)):
        options = [(CALL_OVERHEAD_S + cost + costs[max(0, count - size)], size) for size, cost in seconds.items()]
        cost, size = min(options)
        costs.append(cost)
        covers.append(tuple(sorted((size, *covers[max(0, count - size)]), reverse=True)))
    return covers


def to_pixels(images: NDArray[np.float32], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """[N, C, H, W] in [-1, 1] -> [N, H, W, C] in 0..255, rounded to nearest. Overwrites `images`."""
    count, channels, height, width = images.shape
    pixels = np.empty((count, height, width, channels), dtype=np.uint8) if out is None else out
    np.add(images, 1, out=images)
    np.multiply(images, 127.5, out=images)
    np.rint(images, out=images)
    np.clip(images, 0, 255, out=images)
    pixels[...] = images.astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels
