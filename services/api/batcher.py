"""Requests from many clients, run in few batches. Knows asyncio; knows no ONNX and no HTTP.

The contract of `run`, which is checked: it gets a list of items and returns as many results, in the same order.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from shared.errors import InvalidInput, Overloaded

RATE_BATCHES = 16  # the rate is that of so many batches
FIRST_RETRY_S = 2  # before the first batch there is no rate
MAX_RETRY_S = 60

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Request(Generic[Item, Result]):
    def __init__(self, items: Sequence[Item], future: asyncio.Future[list[Result]]) -> None:
        self.items, self.future = items, future
        self.taken = 0  # items that went into a batch
        self.results: list[Result] = []


class DynamicBatcher(Generic[Item, Result]):
    """When the runner is free it takes everything that waits, up to `max_batch` items; nobody waits for company.

    Counts items, not requests; large requests are split over batches. One batch runs at a time, in `executor`.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], executor: Executor, max_batch: int, max_waiting: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._run, self._executor, self._clock_s = run, executor, clock_s
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._queue: deque[_Request[Item, Result]] = deque()
        self._waiting = 0  # items that are queued and in no batch yet
        self._runner: asyncio.Task[None] | None = None
        self._ran: deque[tuple[int, float]] = deque(maxlen=RATE_BATCHES)  # items and seconds of the last batches

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def items_per_second(self) -> float | None:
        """Of the last batches, by what they took; None before the first."""
        seconds = sum(seconds for _, seconds in self._ran)
        return sum(items for items, _ in self._ran) / seconds if seconds else None

    def check_room(self, count: int) -> None:
        """Raises Overloaded, with the time that what waits will take, or InvalidInput when so many never fit."""
        if count > self._max_waiting:
            raise InvalidInput.of("n", count, f"at most {self._max_waiting:,} images at a time")
        if self._waiting + count > self._max_waiting:
            rate = self.items_per_second
            retry_after_s = math.ceil(self._waiting / rate) if rate else FIRST_RETRY_S
            raise Overloaded(
                f"{self._waiting} images wait and {self._max_waiting} may", min(max(1, retry_after_s), MAX_RETRY_S)
            )

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Results of `items`, in order. Raises at once what `check_room` raises, later whatever `run` raised."""
        self.check_room(len(items))
        request: _Request[Item, Result] = _Request(items, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._waiting += len(items)
        if self._runner is None:
            # Lives only while there is work, so a batcher that nobody uses needs no closing.
            self._runner = asyncio.create_task(self._drain())
        try:
            return await request.future
        finally:
            self._forget(request)  # a caller that went away leaves nothing to be run

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self._take():
                items = [item for request, start, stop in batch for item in request.items[start:stop]]
                began_s = self._clock_s()
                try:
                    results = await loop.run_in_executor(self._executor, self._run, items)
                    if len(results) != len(items):
                        raise RuntimeError(f"the runner got {len(items)} items and returned {len(results)} results")
                except Exception as error:
                    self._fail(batch, error)
                else:
                    self._ran.append((len(items), self._clock_s() - began_s))
                    self._deliver(batch, results)
        finally:
            self._runner = None

    def _take(self) -> list[tuple[_Request[Item, Result], int, int]]:
        """Parts of requests, first come first served, that make up the next batch."""
        batch = []
        room = self._max_batch
        while self._queue and room:
            request = self._queue[0]
            start = request.taken
            request.taken = min(len(request.items), start + room)
            batch.append((request, start, request.taken))
            self._waiting -= request.taken - start
            room -= request.taken - start
            if request.taken == len(request.items):
                self._queue.popleft()
        return batch

    def _deliver(self, batch: list[tuple[_Request[Item, Result], int, int]], results: Sequence[Result]) -> None:
        position = 0
        for request, start, stop in batch:
            request.results.extend(results[position : position + stop - start])
            position += stop - start
            if len(request.results) == len(request.items) and not request.future.done():
                request.future.set_result(request.results)

    def _fail(self, batch: list[tuple[_Request[Item, Result], int, int]], error: Exception) -> None:
        for request, _, _ in batch:
            if not request.future.done():
                request.future.set_exception(error)
            self._forget(request)

    def _forget(self, request: _Request[Item, Result]) -> None:
        if request in self._queue:
            self._queue.remove(request)
            self._waiting -= len(request.items) - request.taken
