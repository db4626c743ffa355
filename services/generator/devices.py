"""Finds onnxruntime's execution provider, and describes the processor, which decides the last bits of results."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from shared.errors import NoModelReady
from shared.settings import Settings

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
CUDA_NOT_LOADED = (
    "a GPU is visible, but onnxruntime did not load its CUDA provider and runs on the CPU; "
    "install onnxruntime-gpu and the CUDA and cuDNN versions that it needs"
)


def providers_for(settings: Settings, *, cuda_graphs: bool) -> list[Any]:
    """The providers of a session, best first. Raises NoModelReady when CUDA is required and there is no device."""
    if not has_cuda_device():
        if settings.require_cuda:
            raise NoModelReady("KILN_REQUIRE_CUDA is set, but this machine has no CUDA device")
        return [CPU]
    if CUDA not in onnxruntime.get_available_providers():
        return [CPU]
    # The wheels ship cuDNN and cuBLAS as Python packages, which the dynamic loader does not search by itself.
    onnxruntime.preload_dlls()
    # EXHAUSTIVE, the default, times every algorithm for each new batch shape: 0.3 to 1.3 s before the response.
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": str(int(cuda_graphs))}
    return [(CUDA, cuda), CPU]


@cache
def has_cuda_device() -> bool:
    """Whether the driver sees a GPU. onnxruntime's list of providers only says what it was compiled with."""
    driver = _driver()
    count = ctypes.c_int(0)
    return driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@cache
def processor_of(provider: str) -> str:
    """Model and instruction sets of the processor that a provider computes on.

    onnxruntime chooses its kernels by them, and another kernel may round another last bit.
    """
    if provider == CUDA and (driver := _driver()) is not None:
        name, version = ctypes.create_string_buffer(256), ctypes.c_int(0)
        driver.cuDeviceGetName(name, len(name), 0)
        driver.cuDriverGetVersion(ctypes.byref(version))
        return f"{name.value.decode(errors='replace')}, driver {version.value}"
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        fields = {name.strip(): value.strip() for name, _, value in lines}
    except OSError:  # not Linux
        fields = {}
    model, flags = fields.get("model name", platform.processor()), fields.get("flags", fields.get("Features", ""))
    return f"{platform.machine()}, {model}, {flags}"


def _driver() -> Any:
    """The CUDA driver's library, initialised; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None
