"""A published generator in onnxruntime: opened, checked, warmed, run."""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.api.inference.io_bindings import IMAGE_SHAPE, Binding, CpuBinding, CudaBinding
from services.api.inference.soft_labels import SHARES
from shared.errors import CorruptArtifact, NoModelReady
from shared.settings import Settings

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
BUCKETS = {CPU: (1, 2, 4, 8, 16, 32, 64), CUDA: (1, 2, 4, 8, 16, 32, 64, 128, 256)}
MIN_BATCH = 32  # a batch has a price of its own, in Python, that its images share: docs/explanation/performance.md
CALL_S = 1e-4  # about what a call of onnxruntime costs besides its work
MAX_CLASSES = 1000
MAX_LATENT = 1 << 16
WARM_UPS = {CPU: 2, CUDA: 4}  # on CUDA two runs allocate, and the third is captured
_WIDTH = 1e-3  # how far outside [-1, 1] an image may be and still be called tanh's


class OnnxEngine:
    """One session, which `lanes` threads may run at the same time.

    A batch is made up of buckets: sizes that were warmed, and that give the same images to the bit whatever else is in
    them. So an image depends on its latent vector and class alone.
    """

    def __init__(
        self, graph: bytes, latent_dim: int, num_classes: int, settings: Settings, *, takes_shares: bool = False
    ) -> None:
        """Opens and warms the model; with `takes_shares` one of `mixing.with_shares`.

        Raises CorruptArtifact when it is not a generator of the expected signature or its first batch is not made of
        images, and NoModelReady when CUDA is required and absent.
        """
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self._takes_shares = takes_shares
        self._has_cuda_graphs = has_cuda_device()
        self._session = self._open(graph, settings)
        self.provider: str = self._session.get_providers()[0]
        if settings.require_cuda and self.provider != CUDA:
            raise NoModelReady(f"CUDA is required and onnxruntime runs on {self.provider}")
        self.lanes = lanes_of(settings)
        self._check_signature()
        self._check_images()
        try:
            self._slots, seconds = self._warm()
        except Exception:
            if not self._has_cuda_graphs:
                raise
            self._has_cuda_graphs = False  # a node that has no CUDA kernel, say
            self._session = self._open(graph, settings)
            self._slots, seconds = self._warm()
        self.buckets = tuple(sorted(seconds))
        self._plan = min_cost_buckets(seconds)
        rates = {size: size / seconds[size] for size in self.buckets}
        enough = min(size for size in self.buckets if rates[size] >= 0.95 * max(rates.values()))
        self.max_batch = max(MIN_BATCH, enough)
        images = self.lanes * sum(self.buckets)
        self.memory_bytes = 2 * len(graph) + images * (latent_dim + np.prod(IMAGE_SHAPE).item()) * 4

    def run(self, z: NDArray[np.float32], classes: NDArray[Any]) -> NDArray[np.uint8]:
        """z [N, latent], labels [N] (or shares [N, classes]) -> pixels [N, 32, 32, 3], 0..255."""
        pixels = np.empty((len(z), IMAGE_SHAPE[1], IMAGE_SHAPE[2], IMAGE_SHAPE[0]), dtype=np.uint8)
        slot = self._slots.pop()  # there is one for each lane
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
        """Buckets, the last of which may have room left, that take so many images."""
        largest = self.buckets[-1]
        return (*[largest] * (count // largest), *self._plan[count % largest])

    def _open(self, graph: bytes, settings: Settings) -> Any:
        options = onnxruntime.SessionOptions()
        # Parallel are the lanes: two runs of one thread each need not wait for each other after every node.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        providers = _providers(settings, cuda_graphs=self._has_cuda_graphs)
        try:
            return onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise CorruptArtifact(f"onnxruntime cannot open the generator: {error}") from error

    def _check_signature(self) -> None:
        inputs = {i.name: (i.type, len(i.shape)) for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        classes = {SHARES: ("tensor(float)", 2)} if self._takes_shares else {"labels": ("tensor(int64)", 1)}
        expected = {"z": ("tensor(float)", 2)} | classes
        if inputs != expected or outputs != {"images": "tensor(float)"}:
            raise CorruptArtifact(f"not a generator: inputs {inputs}, outputs {outputs}")
        # Before anything is allocated by what a manifest says.
        (length,) = (i.shape[1] for i in self._session.get_inputs() if i.name == "z")
        if (isinstance(length, int) and length != self.latent_dim) or self.latent_dim > MAX_LATENT:
            raise CorruptArtifact(f"latent vectors of {length} values, and the manifest says {self.latent_dim}")

    def _check_images(self) -> None:
        """A real batch before anything else: shows that the weights are sound.

        It has every class in it: one damaged row of an embedding spoils one class alone.
        """
        if not 0 < self.num_classes <= MAX_CLASSES:
            raise CorruptArtifact(f"a model of {self.num_classes} classes; 1 to {MAX_CLASSES} are served")
        z, classes = self._probe(max(4, self.num_classes))
        options = onnxruntime.RunOptions()
        if self.provider == CUDA:
            options.add_run_config_entry("gpu_graph_id", "-1")  # none: this size does not come again
        try:
            (images,) = self._session.run(["images"], {"z": z, self._class_input: classes}, options)
        except Exception as error:
            raise CorruptArtifact(f"the generator fails on its first batch: {error}") from error
        if images.shape != (len(z), *IMAGE_SHAPE):
            raise CorruptArtifact(f"the generator's first batch has the shape {images.shape}")
        if not np.isfinite(images).all():
            raise CorruptArtifact("the generator's first batch has values that are not finite")
        if np.abs(images).max() > 1 + _WIDTH:
            raise CorruptArtifact("the generator's first batch has values outside [-1, 1]")

    def _warm(self) -> tuple[deque[dict[int, Binding]], dict[int, float]]:
        """Runs every bucket. -> (bindings of each lane, seconds of each bucket that may be used)

        Another batch size may be another kernel, which rounds otherwise. What may be used is the largest bucket and all
        that agree with it to the bit, wherever an image stands in them; if the largest does not agree with itself when
        its images have other places and other company, then only an image alone is always the same.
        """
        sizes = BUCKETS[self.provider]
        z, classes = self._probe(sizes[-1])
        slot = {size: self._bind(size) for size in sizes}
        expected = self._run_warm(slot[sizes[-1]], z, classes)[0]
        # Everybody one place further, beside others: the second half is now all of one class.
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
        slots += [{size: self._bind(size) for size in seconds} for _ in range(self.lanes - 1)]
        return deque(slots), seconds

    def _run_warm(
        self, binding: Binding, z: NDArray[np.float32], classes: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float]:
        """-> (images, seconds of the fastest run)"""
        seconds = []
        for _ in range(WARM_UPS[self.provider] // 2):
            # On a CPU the run is this thread's, whose own time no other work on the machine adds to.
            clock_s = time.perf_counter if self.provider == CUDA else time.thread_time
            began_s = clock_s()
            images = _run(binding, z, classes)
            seconds.append(clock_s() - began_s)
        return images.copy(), min(seconds)

    def _bind(self, size: int) -> Binding:
        shape = (size, self.num_classes) if self._takes_shares else (size,)
        classes = np.zeros(shape, dtype=np.float32 if self._takes_shares else np.int64)
        if self.provider != CUDA:
            return CpuBinding(self._session, size, self.latent_dim, classes, self._class_input)
        graph_id = size if self._has_cuda_graphs else None
        return CudaBinding(self._session, size, self.latent_dim, classes, self._class_input, graph_id=graph_id)

    def _probe(self, count: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Latent vectors and classes to try the model with; every class is there if `count` allows."""
        z = np.random.default_rng(0).standard_normal((count, self.latent_dim), dtype=np.float32)
        labels = np.arange(count, dtype=np.int64) % self.num_classes
        return z, np.eye(self.num_classes, dtype=np.float32)[labels] if self._takes_shares else labels

    @property
    def _class_input(self) -> str:
        return SHARES if self._takes_shares else "labels"


def _run(binding: Binding, z: NDArray[np.float32], classes: NDArray[Any]) -> NDArray[np.float32]:
    """Images of a batch that may be smaller than the bucket; what an earlier one left in the rest does no harm."""
    count = len(z)
    binding.z[:count] = z
    binding.classes[:count] = classes
    return binding.run()[:count]


def min_cost_buckets(seconds: Mapping[int, float]) -> list[tuple[int, ...]]:
    """For each count below the largest bucket: the buckets that take so many images in the least time.

    Where a batch costs by its images, as on a CPU, 13 are 8 + 4 + 1; where it costs by the call, they are 16.
    """
    covers: list[tuple[int, ...]] = [()]
    costs = [0.0]
    for count in range(1, max(seconds)):
        options = [(CALL_S + cost + costs[max(0, count - size)], size) for size, cost in seconds.items()]
        cost, size = min(options)
        costs.append(cost)
        covers.append(tuple(sorted((size, *covers[max(0, count - size)]), reverse=True)))
    return covers


def to_pixels(images: NDArray[np.float32], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """[N, 3, H, W] in [-1, 1] -> [N, H, W, 3] in 0..255, rounded to nearest. What was in `images` is lost."""
    count, channels, height, width = images.shape
    pixels = np.empty((count, height, width, channels), dtype=np.uint8) if out is None else out
    np.add(images, 1, out=images)
    np.multiply(images, 127.5, out=images)
    np.rint(images, out=images)
    np.clip(images, 0, 255, out=images)
    pixels[...] = images.astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def _providers(settings: Settings, *, cuda_graphs: bool) -> list[Any]:
    if not has_cuda_device():
        if settings.require_cuda:
            raise NoModelReady("KILN_REQUIRE_CUDA is set and there is no CUDA device")
        return [CPU]
    # The wheels bring cuDNN and cuBLAS as Python packages, where the loader does not look by itself.
    onnxruntime.preload_dlls()
    # EXHAUSTIVE, the default, times every algorithm for each new batch shape: 0.3 to 1.3 s before the answer.
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": str(int(cuda_graphs))}
    return [(CUDA, cuda), CPU]


def lanes_of(settings: Settings) -> int:
    """How many batches run at a time: one on a device, on a CPU one for each core that may be used."""
    return 1 if has_cuda_device() else settings.threads or os.cpu_count() or 1


@cache
def has_cuda_device() -> bool:
    """Whether the driver sees a GPU. onnxruntime's own list of providers only says what it was compiled with."""
    if CUDA not in onnxruntime.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
