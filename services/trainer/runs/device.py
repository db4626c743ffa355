"""Chooses the device that a run trains on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from services.trainer.distributed.processes import ALONE, Ranks
from shared.errors import EnvironmentFailed
from shared.settings import Settings


def pick_device(settings: Settings, ranks: Ranks = ALONE, reserved: Sequence[int] = (0,)) -> torch.device:
    """CUDA if available, else the CPU with the threads of the settings.

    `reserved` has the indices of the run's CUDA devices, one for each rank. Raises EnvironmentFailed if CUDA is
    required and absent.
    """
    # On CUDA, convolutions in fp32 use TF32, which keeps 10 of 23 bits of each factor; matrix products use all bits.
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    if torch.cuda.is_available():
        torch.cuda.set_device(reserved[ranks.rank])
        return torch.device("cuda", reserved[ranks.rank])
    if settings.require_cuda:
        raise EnvironmentFailed("KILN_REQUIRE_CUDA is set, but torch finds no CUDA device")
    torch.set_num_threads(max(1, (settings.threads or os.cpu_count() or 1) // ranks.count))
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
