"""Decides how much memory of the training device the images of a data set may take."""

from __future__ import annotations

from pathlib import Path

import torch

GB = 10**9


def image_limit_bytes(device: torch.device, limit_gb: float | None) -> int:
    """The setting KILN_DEVICE_IMAGES_GB in bytes; by default half of the device's free memory."""
    return _free_bytes(device) // 2 if limit_gb is None else round(limit_gb * GB)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
