"""The operations that take most of a training iteration's time, measured with torch's profiler in one process."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.contestant import make_iteration

SKIPPED, ROWS = 5, 12  # iterations before the measurement: a CUDA graph is captured in them


def operations(task: dict[str, Any], iterations: int) -> list[dict[str, Any]]:
    """The ROWS slowest operations (on CUDA: kernels), each with its share of the time and its calls per iteration."""
    device = torch.device(task["device"])
    torch.set_num_threads(task["threads"])
    iterate = make_iteration(task, device)
    for _ in range(SKIPPED):
        iterate()
    is_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as profiler:
        for _ in range(iterations):
            iterate()
        if is_cuda:
            torch.cuda.synchronize()
    spent_us = {
        e.key: (e.self_device_time_total if is_cuda else e.self_cpu_time_total) for e in profiler.key_averages()
    }
    calls = {e.key: e.count for e in profiler.key_averages()}
    total = sum(spent_us.values()) or 1.0
    order = sorted(spent_us, key=lambda name: -spent_us[name])[:ROWS]
    return [
        {"operation": name[:60], "share": spent_us[name] / total, "calls": calls[name] / iterations} for name in order
    ]
