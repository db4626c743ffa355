"""The dynamic batcher returns one result per item, in order, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.api.inference.batcher import DynamicBatcher
from shared.errors import InvalidInput, Overloaded


class Runner:
    """Squares numbers, records its batches, and holds each batch until the gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        self.started.set()
        assert self.gate.wait(60)
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [item * item for item in items]


def batcher(runner: Runner, *, max_batch: int = 4, max_waiting: int = 1000, **more: Any) -> DynamicBatcher[int, int]:
    return DynamicBatcher(runner, ThreadPoolExecutor(more.get("workers", 1)), max_batch, max_waiting, **more)


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=11), min_size=1, max_size=12), st.integers(1, 7))
def test_each_caller_gets_its_own_results_in_order(requests: list[list[int]], max_batch: int) -> None:
    runner = Runner()

    async def scenario() -> list[list[int]]:
        subject = batcher(runner, max_batch=max_batch)
        return list(await asyncio.gather(*(subject.submit(items) for items in requests)))

    assert asyncio.run(scenario()) == [[item * item for item in items] for items in requests]
    assert [item for batch in runner.batches for item in batch] == [item for items in requests for item in items]
    assert max(len(batch) for batch in runner.batches) <= max_batch


def test_items_that_wait_while_a_batch_runs_become_the_next_batch() -> None:
    runner = Runner()

    async def scenario() -> None:
        subject = batcher(runner, max_batch=4)
        # Given a batch that is running, and three more requests that wait
        runner.gate.clear()
        first = asyncio.create_task(subject.submit([1]))
        await asyncio.to_thread(runner.started.wait, 60)
        rest = [asyncio.create_task(subject.submit(items)) for items in ([2], [3, 4], [5, 6])]
        await asyncio.sleep(0)
        assert subject.waiting == 5
        # When the batch ends
        runner.gate.set()
        await asyncio.gather(first, *rest)

    asyncio.run(scenario())
    # Then the first item did not wait for others, and the next batch was full, with the last request split
    assert runner.batches == [[1], [2, 3, 4, 5], [6]]


def test_a_failing_batch_fails_its_own_callers_only() -> None:
    async def scenario() -> tuple[list[int] | BaseException, ...]:
        subject = batcher(Runner(), max_batch=1)
        calls = (subject.submit([2]), subject.submit([-1]), subject.submit([3]))
        return await asyncio.gather(*calls, return_exceptions=True)

    good, bad, also_good = asyncio.run(scenario())
    assert (good, also_good) == ([4], [9])
    assert isinstance(bad, ValueError)


def test_a_runner_that_returns_too_few_results_is_an_error() -> None:
    async def scenario() -> None:
        subject: DynamicBatcher[int, int] = DynamicBatcher(lambda items: items[1:], ThreadPoolExecutor(1), 4, 100)
        await subject.submit([1, 2])

    with pytest.raises(RuntimeError, match="2 items and returned 1"):
        asyncio.run(scenario())


def test_too_many_waiting_items_are_refused_at_once() -> None:
    runner = Runner()

    async def scenario() -> None:
        subject = batcher(runner, max_batch=2, max_waiting=5)
        runner.gate.clear()
        running = asyncio.create_task(subject.submit([1, 2]))
        await asyncio.to_thread(runner.started.wait, 60)
        waiting = asyncio.create_task(subject.submit([3, 4, 5]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 of 5 images waiting"):
            await subject.submit([6, 7, 8])
        # A request that fits is still accepted, and all accepted requests are completed
        fits = asyncio.create_task(subject.submit([6, 7]))
        await asyncio.sleep(0)
        runner.gate.set()
        assert [await running, await waiting, await fits] == [[1, 4], [9, 16, 25], [36, 49]]

    asyncio.run(scenario())


def test_retry_after_follows_from_the_measured_rate() -> None:
    runner = Runner()
    now_s = iter([0.0, 2.0, 2.0, 5.0, 5.0])  # when a batch begins, when it ends, ...

    async def scenario() -> None:
        subject: DynamicBatcher[int, int] = DynamicBatcher(
            runner, ThreadPoolExecutor(1), 4, 40, clock_s=lambda: next(now_s)
        )
        rates = [subject.items_per_second]
        # Given four items in two seconds, then four in three: 1.6 a second
        await subject.submit([1, 2, 3, 4])
        rates.append(subject.items_per_second)
        await subject.submit([1, 2, 3, 4])
        rates.append(subject.items_per_second)
        assert rates == [None, 2, 1.6]
        # When 33 wait behind a batch that runs
        runner.gate.clear()
        waiting = asyncio.create_task(subject.submit(list(range(37))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert subject.waiting == 33
        # Then they take 20.6 seconds
        with pytest.raises(Overloaded, match="33 of 40 images waiting") as caught:
            await subject.submit([0] * 8)
        assert caught.value.retry_after_s == 21
        waiting.cancel()
        runner.gate.set()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize(("batch_s", "retry_after_s"), [(0.001, 1), (1.0, 2), (500.0, 60)])
def test_retry_after_is_between_a_second_and_a_minute(batch_s: float, retry_after_s: int) -> None:
    runner = Runner()
    now_s = iter([0.0, batch_s, batch_s])

    async def scenario() -> None:
        subject: DynamicBatcher[int, int] = DynamicBatcher(
            runner, ThreadPoolExecutor(1), 1, 2, clock_s=lambda: next(now_s)
        )
        await subject.submit([1])
        runner.gate.clear()
        waiting = asyncio.create_task(subject.submit([1, 2]))
        also = asyncio.create_task(subject.submit([3]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            subject.check_capacity(1)
        assert caught.value.retry_after_s == retry_after_s
        for task in (waiting, also):
            task.cancel()
        runner.gate.set()
        await asyncio.gather(waiting, also, return_exceptions=True)

    asyncio.run(scenario())


def test_a_request_larger_than_the_queue_is_invalid_input() -> None:
    subject = batcher(Runner(), max_waiting=5)

    with pytest.raises(InvalidInput, match="at most 5"):
        asyncio.run(subject.submit([1] * 6))


def test_the_items_of_a_cancelled_caller_are_not_run() -> None:
    runner = Runner()

    async def scenario() -> None:
        subject = batcher(runner, max_batch=2)
        runner.gate.clear()
        running = asyncio.create_task(subject.submit([1]))
        await asyncio.to_thread(runner.started.wait, 60)
        gone = asyncio.create_task(subject.submit([2, 3, 4]))
        stays = asyncio.create_task(subject.submit([5]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert subject.waiting == 1
        runner.gate.set()
        assert [await running, await stays] == [[1], [25]]

    asyncio.run(scenario())
    assert runner.batches == [[1], [5]]
