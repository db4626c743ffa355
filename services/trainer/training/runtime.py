"""How a run is computed: the fast paths. None changes what is computed, so a resumed run may use others than before.

Within one set of paths a run is reproducible to the bit on the CPU; between two sets it differs by rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from shared.settings import FAST_PATHS, Settings


@dataclass(frozen=True)
class Runtime:
    """Which fast paths are on; the names are those of KILN_FAST_PATHS. All off is the plain eager reference."""

    channels_last: bool = False  # pixels of one place lie together
    fused: bool = False  # Adam in one kernel
    foreach: bool = False  # averaging all weights in one call
    winograd: bool = False  # the 4x4 convolutions by nine matrix products; CPU only
    resample: bool = False  # doubling and halving of images folded into the convolution beside them; residual networks
    lean: bool = False  # a step that walks no modules and switches nothing back and forth
    compile: bool = False  # torch.compile where nothing is differentiated twice
    capture: bool = False  # the whole iteration as one CUDA graph; CUDA only


PLAIN = Runtime()


def fastest(device: torch.device) -> Runtime:
    """What measures fastest on that kind of device: docs/explanation/performance.md."""
    is_cuda = device.type == "cuda"
    return Runtime(
        channels_last=True, fused=True, foreach=True, winograd=not is_cuda, resample=not is_cuda, lean=True,
        compile=False, capture=is_cuda,
    )  # fmt: skip


def choose_runtime(device: torch.device, settings: Settings) -> Runtime:
    """The device's fastest paths, changed as KILN_FAST_PATHS says; what the device cannot do is left out."""
    words = settings.fast_paths.split(",")
    runtime = PLAIN if "none" in words else fastest(device)
    changes = {word.lstrip("+-"): not word.startswith("-") for word in words if word.lstrip("+-") in FAST_PATHS}
    runtime = replace(runtime, **changes)
    is_cuda = device.type == "cuda"
    # Winograd's maps are autograd functions of their own, at each of which compiled code would end and begin again.
    winograd = runtime.winograd and not is_cuda and not runtime.compile
    return replace(runtime, capture=runtime.capture and is_cuda, winograd=winograd)
