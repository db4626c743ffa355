"""Chooses the fast paths of a run. They change results by rounding only, so a resumed run may use other paths.

With the same paths, a run on the CPU is reproducible to the bit; with other paths it differs by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from services.trainer.networks.strided import Products
from shared.settings import FAST_PATHS, Settings


@dataclass(frozen=True)
class Runtime:
    """The fast paths that are on, named as in KILN_FAST_PATHS. With all of them off, a run is the plain reference."""

    channels_last: bool = False  # the channels of a pixel are neighbours in memory
    winograd: bool = False  # 4x4 convolutions as nine matrix products; CPU only
    resample: bool = False  # upsampling and pooling merged with the adjacent convolution; residual networks
    compile: bool = False  # torch.compile for everything that is not differentiated twice
    capture: bool = False  # the whole iteration as one CUDA graph; CUDA only

    @property
    def products(self) -> Products:
        return Products(winograd=self.winograd, resample=self.resample)


PLAIN = Runtime()


def fastest(device: torch.device) -> Runtime:
    """The paths that measure fastest on this kind of device: docs/explanation/performance.md."""
    is_cuda = device.type == "cuda"
    return Runtime(channels_last=True, winograd=not is_cuda, resample=not is_cuda, compile=False, capture=is_cuda)


def choose_runtime(device: torch.device, settings: Settings) -> Runtime:
    """The device's fastest paths with the changes of KILN_FAST_PATHS; paths that the device lacks stay off."""
    words = settings.fast_paths.split(",")
    runtime = PLAIN if "none" in words else fastest(device)
    changes = {word.lstrip("+-"): not word.startswith("-") for word in words if word.lstrip("+-") in FAST_PATHS}
    runtime = replace(runtime, **changes)
    is_cuda = device.type == "cuda"
    # Winograd's autograd functions would split the compiled code.
    winograd = runtime.winograd and not is_cuda and not runtime.compile
    return replace(runtime, capture=runtime.capture and is_cuda, winograd=winograd)
