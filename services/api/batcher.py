"""Requests from many clients, run in few batches. Knows asyncio; knows no ONNX and no HTTP.

The contract of `run`, which is checked: it gets a list of items and returns as many results, in the same order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

from shared.errors import Overloaded

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
        self, run: Callable[[list[Item]], Sequence[Result]], executor: Executor, max_batch: int, max_waiting: int
    ) -> None:
        self._run, self._executor = run, executor
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._queue: deque[_Request[Item, Result]] = deque()
        self._waiting = 0  # items that are queued and in no batch yet
        self._runner: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return self._waiting

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Results of `items`, in order. Raises Overloaded at once when too many wait, and whatever `run` raised."""
        if self._waiting + len(items) > self._max_waiting:
            raise Overloaded(f"{self._waiting} images wait and {self._max_waiting} may")
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
                try:
                    results = await loop.run_in_executor(self._executor, self._run, items)
                    if len(results) != len(items):
                        raise RuntimeError(f"the runner got {len(items)} items and returned {len(results)} results")
                except Exception as error:
                    self._fail(batch, error)
                else:
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
