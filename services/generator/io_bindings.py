"""Inputs and output of one batch size, bound to a session once, so that a run allocates nothing.

CudaBinding has never run, because no GPU was available. It follows onnxruntime's documentation of CUDA graphs and I/O
binding, and `OnnxEngine` runs without graphs when one cannot be captured.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class Binding(Protocol):
    """Fill `z` [size, latent] and `classes`, then call `run`; its images are valid until the next run."""

    z: NDArray[np.float32]
    classes: NDArray[Any]

    def run(self) -> NDArray[np.float32]: ...


class CpuBinding:
    """Buffers in this process's memory."""

    def __init__(
        self, session: Any, images: tuple[int, ...], latent_dim: int, classes: NDArray[Any], name: str
    ) -> None:
        """`images` is the shape of the output: [size, C, H, W]."""
        self._session, self._binding = session, session.io_binding()
        self.z = np.zeros((images[0], latent_dim), dtype=np.float32)
        self.classes = classes
        self._images = np.zeros(images, dtype=np.float32)
        for bind, key, array in (
            (self._binding.bind_ortvalue_input, "z", self.z),
            (self._binding.bind_ortvalue_input, name, self.classes),
            (self._binding.bind_ortvalue_output, "images", self._images),
        ):
            bind(key, onnxruntime.OrtValue.ortvalue_from_numpy(array))  # shares the memory, and keeps it alive

    def run(self) -> NDArray[np.float32]:
        self._session.run_with_iobinding(self._binding)
        return self._images


class CudaBinding:
    """Buffers on the device, and with `graph_id` a CUDA graph of the whole run, replayed in one call.

    The first runs of an id allocate, then capture, and capture and replay must happen in one thread. So every size has
    its own id and is warmed, and the engine has one worker.
    """

    def __init__(
        self,
        session: Any,
        images: tuple[int, ...],
        latent_dim: int,
        classes: NDArray[Any],
        name: str,
        *,
        graph_id: int | None,
    ) -> None:
        """`images` is the shape of the output: [size, C, H, W]."""
        self._session, self._binding = session, session.io_binding()
        self.z = np.zeros((images[0], latent_dim), dtype=np.float32)
        self.classes = classes
        on_device = onnxruntime.OrtValue.ortvalue_from_numpy
        self._z, self._classes = on_device(self.z, "cuda", 0), on_device(self.classes, "cuda", 0)
        self._images = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(images), np.float32, "cuda", 0)
        self._binding.bind_ortvalue_input("z", self._z)
        self._binding.bind_ortvalue_input(name, self._classes)
        self._binding.bind_ortvalue_output("images", self._images)
        self._options = onnxruntime.RunOptions()
        if graph_id is not None:
            self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def run(self) -> NDArray[np.float32]:
        self._z.update_inplace(self.z)
        self._classes.update_inplace(self.classes)
        self._session.run_with_iobinding(self._binding, self._options)
        images: NDArray[np.float32] = self._images.numpy()  # copied from the device, after the run has ended
        return images
