"""A thread pool for one kind of work that refuses work beyond a bound instead of queueing it without limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from shared.errors import Overloaded

FIRST_RETRY_S = 2  # before the first work there is no rate
MAX_RETRY_S = 60

P = ParamSpec("P")
Result = TypeVar("Result")


class BoundedPool:
    """`threads` threads, and at most `max_pending` units (pixels, draws) of reserved work at a time."""

    def __init__(self, name: str, threads: int, max_pending: int, unit: str) -> None:
        self._name, self._threads, self._max_pending, self._unit = name, threads, max_pending, unit
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self.pending = 0
        self._done, self._busy_s = 0, 0.0  # units and seconds so far

    @contextmanager
    def reserve(self, units: int) -> Iterator[None]:
        """Reserves capacity for the work of the block. Raises Overloaded when the pool is full.

        Work that is larger than the bound still runs, but only alone.
        """
        if self.pending and self.pending + units > self._max_pending:
            retry_after_s = self._retry_after_s()
            raise Overloaded(
                f"{self._name} queue full: {self.pending:,} of {self._max_pending:,} {self._unit} pending; "
                f"retry in {retry_after_s} s",
                retry_after_s,
            )
        self.pending += units
        try:
            yield
            self._done += units
        finally:
            self.pending -= units

    async def run(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """The result of the function, called in one of the threads."""

        def timed() -> tuple[Result, float]:
            began_s = time.perf_counter()
            return function(*args, **kwargs), time.perf_counter() - began_s

        result, seconds = await asyncio.get_running_loop().run_in_executor(self._executor, timed)
        self._busy_s += seconds
        return result

    def _retry_after_s(self) -> int:
        if not self._done or not self._busy_s:
            return FIRST_RETRY_S
        rate = self._threads * self._done / self._busy_s
        return min(max(1, math.ceil(self.pending / rate)), MAX_RETRY_S)
