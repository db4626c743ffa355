"""Where the time of a step goes, by operation: one process, torch's profiler, times of the device itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.contestant import make

SKIPPED, ROWS = 5, 12  # iterations before; a recorded step is recorded by then


def operations(task: dict[str, Any], iterations: int) -> list[dict[str, Any]]:
    """The operations that take most of an iteration's time, with their shares of all of it. Kernels on CUDA."""
    device = torch.device(task["device"])
    torch.set_num_threads(task["threads"])
    iterate = make(task, device)
    for _ in range(SKIPPED):
        iterate()
    is_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as profiler:
        for _ in range(iterations):
            iterate()
        if is_cuda:
            torch.cuda.synchronize()
    spent = {e.key: (e.self_device_time_total if is_cuda else e.self_cpu_time_total) for e in profiler.key_averages()}
    calls = {e.key: e.count for e in profiler.key_averages()}
    total = sum(spent.values()) or 1.0
    order = sorted(spent, key=lambda name: -spent[name])[:ROWS]
    return [{"operation": name[:60], "share": spent[name] / total, "calls": calls[name] / iterations} for name in order]
