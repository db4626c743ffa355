"""Measures how a training step divides its time among data, forward, backward and optimizer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("data", "forward", "backward", "optimizer")


class Stopwatch:
    """Sums the seconds of each part of a step. On CUDA by events, so that only `shares` waits for the device."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._device is None:
            yield
        elif self._device.type == "cuda":
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._events.append((name, start, end))
        else:
            started_s = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started_s

    def shares(self) -> dict[str, float]:
        """Share of the measured time by part; the shares sum to one. On CUDA this waits for the device."""
        for name, start, end in self._events:
            end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1000
        self._events.clear()
        total = sum(self._seconds.values()) or 1.0
        return {name: round(self._seconds[name] / total, 4) for name in PARTS}


OFF = Stopwatch(None)  # measures nothing
