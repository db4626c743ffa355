"""A published generator in onnxruntime: opened, checked, warmed, run."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shared.errors import CorruptArtifact, NoModelReady
from shared.settings import Settings

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
IMAGE_SHAPE = (3, 32, 32)
MAX_CLASSES = 1000
MAX_LATENT = 1 << 16
_WIDTH = 1e-3  # how far outside [-1, 1] an image may be and still be called tanh's


class OnnxEngine:
    """One session. `run` is not safe to call from two threads at a time: one thread owns it."""

    def __init__(self, graph: bytes, latent_dim: int, num_classes: int, settings: Settings) -> None:
        """Opens and warms the model.

        Raises CorruptArtifact when it is not a generator of the expected signature or its first batch is not made of
        images, and NoModelReady when CUDA is required and absent.
        """
        self.latent_dim, self.num_classes = latent_dim, num_classes
        providers = _providers(settings)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads or os.cpu_count() or 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise CorruptArtifact(f"onnxruntime cannot open the generator: {error}") from error
        self.provider: str = self._session.get_providers()[0]
        if settings.require_cuda and self.provider != CUDA:
            raise NoModelReady(f"CUDA is required and onnxruntime runs on {self.provider}")
        self._check_signature()
        self._check_images()

    def run(self, z: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """z [N, latent], labels [N] -> pixels [N, 32, 32, 3], 0..255."""
        return to_pixels(self._infer(z, labels))

    def _infer(self, z: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        images: Any
        (images,) = self._session.run(["images"], {"z": z, "labels": labels})
        return np.asarray(images)

    def _check_signature(self) -> None:
        inputs = {i.name: (i.type, len(i.shape)) for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        expected = {"z": ("tensor(float)", 2), "labels": ("tensor(int64)", 1)}
        if inputs != expected or outputs != {"images": "tensor(float)"}:
            raise CorruptArtifact(f"not a generator: inputs {inputs}, outputs {outputs}")
        # Before anything is allocated by what a manifest says.
        (length,) = (i.shape[1] for i in self._session.get_inputs() if i.name == "z")
        if (isinstance(length, int) and length != self.latent_dim) or self.latent_dim > MAX_LATENT:
            raise CorruptArtifact(f"latent vectors of {length} values, and the manifest says {self.latent_dim}")

    def _check_images(self) -> None:
        """A real batch before the first request: pays the first run's price, and shows that the weights are sound.

        It has every class in it: one damaged row of an embedding spoils one class alone.
        """
        if not 0 < self.num_classes <= MAX_CLASSES:
            raise CorruptArtifact(f"a model of {self.num_classes} classes; 1 to {MAX_CLASSES} are served")
        labels = np.arange(max(4, self.num_classes), dtype=np.int64) % self.num_classes
        z = np.random.default_rng(0).standard_normal((len(labels), self.latent_dim), dtype=np.float32)
        try:
            images = self._infer(z, labels)
        except Exception as error:
            raise CorruptArtifact(f"the generator fails on its first batch: {error}") from error
        if images.shape != (len(labels), *IMAGE_SHAPE):
            raise CorruptArtifact(f"the generator's first batch has the shape {images.shape}")
        if not np.isfinite(images).all():
            raise CorruptArtifact("the generator's first batch has values that are not finite")
        if np.abs(images).max() > 1 + _WIDTH:
            raise CorruptArtifact("the generator's first batch has values outside [-1, 1]")


def to_pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[N, 3, H, W] in [-1, 1] -> [N, H, W, 3] in 0..255, rounded to nearest."""
    scaled = np.rint((images.transpose(0, 2, 3, 1) + 1) * 127.5)
    pixels: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return pixels


def _providers(settings: Settings) -> list[Any]:
    if not has_cuda_device():
        if settings.require_cuda:
            raise NoModelReady("KILN_REQUIRE_CUDA is set and there is no CUDA device")
        return [CPU]
    # The wheels bring cuDNN and cuBLAS as Python packages, where the loader does not look by itself.
    onnxruntime.preload_dlls()
    # EXHAUSTIVE, the default, times every algorithm for each new batch shape: 0.3 to 1.3 s before the answer.
    return [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}), CPU]


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
