"""Chooses the device that a run trains on."""

from __future__ import annotations

import os

import torch

from services.trainer.distributed.processes import ALONE, Ranks
from shared.errors import BadConfig
from shared.settings import Settings


def pick_device(settings: Settings, ranks: Ranks = ALONE) -> torch.device:
    """CUDA if available, else the CPU with the threads of the settings. Raises BadConfig if there are too few GPUs."""
    if torch.cuda.is_available():
        if ranks.count > torch.cuda.device_count():
            raise BadConfig(f"the config needs {ranks.count} GPUs; this machine has {torch.cuda.device_count()}")
        torch.cuda.set_device(ranks.rank)
        return torch.device("cuda", ranks.rank)
    if settings.require_cuda:
        raise BadConfig("KILN_REQUIRE_CUDA is set, but torch finds no CUDA device")
    torch.set_num_threads(max(1, (settings.threads or os.cpu_count() or 1) // ranks.count))
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
