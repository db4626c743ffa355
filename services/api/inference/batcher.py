"""Requests from many clients, run in few batches. Knows asyncio; knows no ONNX and no HTTP.

The contract of `run`, which is checked: it gets a list of items and returns as many results, in the same order.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic, TypeVar

from shared.errors import InvalidInput, Overloaded

RATE_BATCHES = 16  # the rate is that of so many batches
FIRST_RETRY_S = 2  # before the first batch there is no rate
MAX_RETRY_S = 60

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")


class _Request(Generic[Item, Result]):
    def __init__(
        self, items: Sequence[Item], finish: Callable[[list[Result]], Any], future: asyncio.Future[Any]
    ) -> None:
        self.items, self.finish, self.future = items, finish, future
        self.asked_s = time.perf_counter()
        self.taken = 0  # items that went into a batch
        self.results: list[Any] = [None] * len(items)
        self._missing = len(items)
        self._lock = threading.Lock()

    def put(self, start: int, results: Sequence[Result]) -> bool:
        """Says whether these were the last that were missing. Parts may come from several threads at once."""
        self.results[start : start + len(results)] = results
        with self._lock:
            self._missing -= len(results)
            return self._missing == 0

    def finished(self) -> tuple[Any, Exception | None]:
        """(value, None), or (None, what `finish` raised)."""
        try:
            return self.finish(self.results), None
        except Exception as error:  # its caller gets it
            return None, error

    def settle(self, value: Any, error: Exception | None) -> None:
        if self.future.done():  # its caller went away
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


Part = tuple[_Request[Item, Result], int, int]  # the items [start, stop) of a request


class DynamicBatcher(Generic[Item, Result]):
    """When a lane is free it takes its share of all that waits, up to `max_batch` items; nobody waits for company.

    Counts items, not requests; large requests are split over batches. `lanes` batches run at a time, each in a thread
    of `executor`, which also finishes the requests that its batch completes, while the other lanes run on. A single
    lane that must not be kept from its next batch leaves that to the `finisher`. `waited` is told, by
    time.perf_counter(), since when a request has waited whose first item is taken.
    """

    def __init__(
        self, run: Callable[[list[Item]], Sequence[Result]], executor: Executor, max_batch: int, max_waiting: int,
        *, clock_s: Callable[[], float] = time.monotonic, lanes: int = 1, finisher: Executor | None = None,
        waited: Callable[[float], object] = lambda _: None,
    ) -> None:  # fmt: skip
        self._run, self._executor, self._finisher, self._clock_s = run, executor, finisher, clock_s
        self._waited = waited
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._lanes = self._free = lanes
        self._queue: deque[_Request[Item, Result]] = deque()
        self._waiting = 0  # items that are queued and in no batch yet
        self._is_woken = False
        self._ran: deque[tuple[int, float]] = deque(maxlen=RATE_BATCHES)  # items and seconds of the last batches

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def items_per_second(self) -> float | None:
        """Of the last batches, by what they took; None before the first."""
        seconds = sum(seconds for _, seconds in self._ran)
        return self._lanes * sum(items for items, _ in self._ran) / seconds if seconds else None

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
        return await self.submit_for(items, lambda results: results)

    async def submit_for(self, items: Sequence[Item], finish: Callable[[list[Result]], Value]) -> Value:
        """What `finish` makes of the results of `items`, in order; it runs in a thread, like `run`.

        Raises at once what `check_room` raises, later whatever `run` or `finish` raised.
        """
        self.check_room(len(items))
        loop = asyncio.get_running_loop()
        request: _Request[Item, Result] = _Request(items, finish, loop.create_future())
        self._queue.append(request)
        self._waiting += len(items)
        if not self._is_woken:
            # Not at once: what else came in with the same look at the sockets goes into the same batch.
            self._is_woken = True
            loop.call_soon(self._pump, loop)
        try:
            value: Value = await request.future
            return value
        finally:
            self._forget(request)  # a caller that went away leaves nothing to be run

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives every free lane a batch, as long as there is something to run."""
        self._is_woken = False
        while self._free and (batch := self._take(math.ceil(self._waiting / self._free))):
            self._free -= 1
            running = loop.run_in_executor(self._executor, self._run_batch, batch, loop)
            running.add_done_callback(partial(self._on_end, loop, batch))

    def _take(self, share: int) -> list[Part[Item, Result]]:
        """Parts of requests, first come first served, that make up the next batch."""
        batch = []
        room = min(share, self._max_batch)
        while self._queue and room:
            request = self._queue[0]
            start = request.taken
            if start == 0:
                self._waited(request.asked_s)
            request.taken = min(len(request.items), start + room)
            batch.append((request, start, request.taken))
            self._waiting -= request.taken - start
            room -= request.taken - start
            if request.taken == len(request.items):
                self._queue.popleft()
        return batch

    def _run_batch(
        self, batch: list[Part[Item, Result]], loop: asyncio.AbstractEventLoop
    ) -> tuple[int, float, list[tuple[_Request[Item, Result], Any, Exception | None]]]:
        """In a thread. -> (items, seconds, requests that are finished with it)"""
        items = [item for request, start, stop in batch for item in request.items[start:stop]]
        began_s = self._clock_s()
        results = self._run(items)
        seconds = self._clock_s() - began_s
        if len(results) != len(items):
            raise RuntimeError(f"the runner got {len(items)} items and returned {len(results)} results")
        settled, position = [], 0
        for request, start, stop in batch:
            is_whole = request.put(start, results[position : position + stop - start])
            position += stop - start
            if is_whole and self._finisher is not None:
                self._finisher.submit(_finish_elsewhere, request, loop)
            elif is_whole and not request.future.done():
                settled.append((request, *request.finished()))
        return len(items), seconds, settled

    def _on_end(
        self, loop: asyncio.AbstractEventLoop, batch: list[Part[Item, Result]], running: asyncio.Future[Any]
    ) -> None:
        self._free += 1
        if running.cancelled():  # the loop is closing
            return
        if error := running.exception():
            for request, _, _ in batch:
                request.settle(None, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                self._forget(request)
        else:
            items, seconds, settled = running.result()
            self._ran.append((items, seconds))
            for request, value, failure in settled:
                request.settle(value, failure)
        self._pump(loop)

    def _forget(self, request: _Request[Item, Result]) -> None:
        if request in self._queue:
            self._queue.remove(request)
            self._waiting -= len(request.items) - request.taken


def _finish_elsewhere(request: _Request[Any, Any], loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(request.settle, *request.finished())
