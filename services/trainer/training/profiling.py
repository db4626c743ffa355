"""Writes a trace of a few iterations, which opens in Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, TRACED = 5, 3  # iterations; before the trace begins, caches fill and the CUDA graph is recorded

T = TypeVar("T")


@contextmanager
def profiled(should_stop: Callable[[], T], path: Path | None) -> Iterator[Callable[[], T]]:
    """`should_stop`, wrapped so that each call, one per iteration, advances the profiler. No trace without a path."""
    if path is None:
        yield should_stop
        return
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    plan = schedule(wait=SKIPPED, warmup=1, active=TRACED, repeat=1)
    with profile(
        activities=activities, schedule=plan, on_trace_ready=lambda p: p.export_chrome_trace(str(path))
    ) as profiler:

        def counted() -> T:
            profiler.step()
            return should_stop()

        yield counted
