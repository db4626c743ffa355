"""Readiness reports Redis as down only when Redis is down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.api.jobs.event_stream import stream_job_events
from services.api.jobs.store_health import StoreHealth
from services.api.middleware.draining import Drain
from shared.errors import StoreUnavailable
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from tests.shared.examples import a_job


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore(settings.redis_url)
    yield store
    store.close()


def test_a_busy_thread_pool_is_not_reported_as_a_redis_that_is_down(settings: Settings, store: RedisJobStore) -> None:
    job, _ = store.create(a_job)
    release = threading.Event()

    async def check() -> list[bytes]:
        # Given an event loop whose default threads are all busy
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, release.wait)
        try:
            # When readiness is probed, and a client follows a job
            await StoreHealth(store).check()
            stream = stream_job_events(job.id, "", store, settings.redis_url, Drain(0))
            received = [await anext(stream), await asyncio.wait_for(anext(stream), 10)]
            await stream.aclose()  # type: ignore[attr-defined]
        finally:
            release.set()
            await busy
        return received

    assert b"event: job" in asyncio.run(check())[1]


def test_a_redis_that_is_down_is_reported(settings: Settings) -> None:
    store = RedisJobStore("redis://127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreUnavailable):
        asyncio.run(StoreHealth(store).check())
    store.close()


def test_concurrent_probes_share_one_check(store: RedisJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pings: list[int] = []
    ping = store.ping

    def counting() -> None:
        pings.append(1)
        ping()

    monkeypatch.setattr(store, "ping", counting)
    health = StoreHealth(store)

    async def probe_often() -> None:
        await asyncio.gather(*(health.check() for _ in range(20)))

    asyncio.run(probe_often())
    assert len(pings) == 1
