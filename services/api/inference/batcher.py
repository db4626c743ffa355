"""Dynamic batching: the items of many requests run in few batches. Depends on asyncio only, not on ONNX or HTTP."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic, TypeVar

from shared.errors import InvalidInput, Overloaded

RATE_BATCHES = 16  # the rate is measured over this many batches
FIRST_RETRY_S = 2  # before the first batch there is no rate
MAX_RETRY_S = 60

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Request(Generic[Item, Result]):
    """The items of one call of `submit`, and the results so far."""

    def __init__(self, items: Sequence[Item], future: asyncio.Future[list[Result]]) -> None:
        self.items, self.future = items, future
        self.submitted_s = time.perf_counter()
        self.taken = 0  # items that went into a batch
        self.results: list[Any] = [None] * len(items)
        self._missing = len(items)
        self._lock = threading.Lock()

    def add_results(self, start: int, results: Sequence[Result]) -> bool:
        """Whether all results are complete now. Several workers may add parts at once."""
        self.results[start : start + len(results)] = results
        with self._lock:
            self._missing -= len(results)
            return self._missing == 0

    def resolve(self, error: Exception | None = None) -> None:
        if self.future.done():  # the caller was cancelled
            return
        if error is None:
            self.future.set_result(self.results)
        else:
            self.future.set_exception(error)


Part = tuple[_Request[Item, Result], int, int]  # the items [start, stop) of a request


class DynamicBatcher(Generic[Item, Result]):
    """A free worker takes its share of all waiting items at once, up to `max_batch`; no item waits for others.

    `run` gets a list of items and returns as many results, in the same order; the batcher checks their number. It
    counts items, not requests, and splits large requests over several batches. Up to `workers` batches run at a time,
    each in a thread of `executor`. `on_wait` receives the time (time.perf_counter()) at which a request was submitted,
    when its first item enters a batch.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], executor: Executor, max_batch: int, max_waiting: int,
        *, clock_s: Callable[[], float] = time.monotonic, workers: int = 1,
        on_wait: Callable[[float], object] = lambda _: None,
    ) -> None:  # fmt: skip
        self._run, self._executor, self._clock_s = run, executor, clock_s
        self._on_wait = on_wait
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._workers = self._free = workers
        self._queue: deque[_Request[Item, Result]] = deque()
        self._waiting = 0  # items in the queue that are in no batch yet
        self._is_dispatch_due = False
        self._recent: deque[tuple[int, float]] = deque(maxlen=RATE_BATCHES)  # items and seconds of the last batches

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def items_per_second(self) -> float | None:
        """Measured over the last batches; None before the first."""
        seconds = sum(seconds for _, seconds in self._recent)
        return self._workers * sum(items for items, _ in self._recent) / seconds if seconds else None

    def check_capacity(self, count: int) -> None:
        """Raises Overloaded, with the time to clear the queue, or InvalidInput when `count` exceeds the whole queue."""
        if count > self._max_waiting:
            raise InvalidInput.of("n", count, f"at most {self._max_waiting:,} images fit into the queue")
        if self._waiting + count > self._max_waiting:
            rate = self.items_per_second
            retry_after_s = math.ceil(self._waiting / rate) if rate else FIRST_RETRY_S
            retry_after_s = min(max(1, retry_after_s), MAX_RETRY_S)
            raise Overloaded(
                f"queue full: {self._waiting} of {self._max_waiting} images waiting; retry in {retry_after_s} s",
                retry_after_s,
            )

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Results of `items`, in order. Raises at once what `check_capacity` raises, later whatever `run` raised."""
        self.check_capacity(len(items))
        loop = asyncio.get_running_loop()
        request: _Request[Item, Result] = _Request(items, loop.create_future())
        self._queue.append(request)
        self._waiting += len(items)
        if not self._is_dispatch_due:
            # Later, so that requests of the same turn of the event loop share the batch.
            self._is_dispatch_due = True
            loop.call_soon(self._dispatch, loop)
        try:
            return await request.future
        finally:
            self._remove(request)  # a caller that was cancelled leaves nothing to run
            del request  # otherwise an error's traceback would hold the request, which holds the error: a cycle

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives a batch to every free worker while items wait."""
        self._is_dispatch_due = False
        while self._free and (batch := self._take(math.ceil(self._waiting / self._free))):
            self._free -= 1
            running = loop.run_in_executor(self._executor, self._run_batch, batch)
            running.add_done_callback(partial(self._on_batch_end, loop, batch))

    def _take(self, share: int) -> list[Part[Item, Result]]:
        """Parts of requests, first come first served, that make up the next batch."""
        batch = []
        room = min(share, self._max_batch)
        while self._queue and room:
            request = self._queue[0]
            start = request.taken
            if start == 0:
                self._on_wait(request.submitted_s)
            request.taken = min(len(request.items), start + room)
            batch.append((request, start, request.taken))
            self._waiting -= request.taken - start
            room -= request.taken - start
            if request.taken == len(request.items):
                self._queue.popleft()
        return batch

    def _run_batch(
        self, batch: list[Part[Item, Result]]
    ) -> tuple[int, float, list[_Request[Item, Result]]]:  # fmt: skip
        """In a worker. -> (items, seconds, requests whose results are complete)"""
        items = [item for request, start, stop in batch for item in request.items[start:stop]]
        began_s = self._clock_s()
        results = self._run(items)
        seconds = self._clock_s() - began_s
        if len(results) != len(items):
            raise RuntimeError(f"the runner got {len(items)} items and returned {len(results)} results")
        complete, position = [], 0
        for request, start, stop in batch:
            if request.add_results(start, results[position : position + stop - start]):
                complete.append(request)
            position += stop - start
        return len(items), seconds, complete

    def _on_batch_end(
        self, loop: asyncio.AbstractEventLoop, batch: list[Part[Item, Result]], running: asyncio.Future[Any]
    ) -> None:
        self._free += 1
        if running.cancelled():  # the loop is closing
            return
        if error := running.exception():
            traceback.clear_frames(error.__traceback__)  # also against a cycle; the traceback keeps its lines
            for request, _, _ in batch:
                request.resolve(error if isinstance(error, Exception) else RuntimeError(repr(error)))
                self._remove(request)
        else:
            items, seconds, complete = running.result()
            self._recent.append((items, seconds))
            for request in complete:
                request.resolve()
        self._dispatch(loop)

    def _remove(self, request: _Request[Item, Result]) -> None:
        if request in self._queue:
            self._queue.remove(request)
            self._waiting -= len(request.items) - request.taken
