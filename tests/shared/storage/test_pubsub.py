"""Announcements reach all subscribers, also after an outage of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.dev import free_port
from shared.errors import StoreUnavailable
from shared.jobs.store import RedisJobStore
from shared.storage.pubsub import Announcements
from tests.shared.servers import redis_on

pytestmark = pytest.mark.timeout(60)  # a subscriber that misses an announcement waits for AN_HOUR_S

AN_HOUR_S = 3600.0


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[Announcements]:
    announcements = Announcements(url)
    try:
        await announcements.wait(AN_HOUR_S)  # returns at once after a new subscription
        yield announcements
    finally:
        await announcements.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url)
    yield store
    store.close()


def test_an_announcement_wakes_all_subscribers(store: RedisJobStore, redis_url: str) -> None:
    async def scenario() -> None:
        async with subscribed(redis_url) as one, subscribed(redis_url) as other:
            # Given two waiting subscribers
            waits = [asyncio.create_task(subscriber.wait(AN_HOUR_S)) for subscriber in (one, other)]
            for _ in range(10):
                await asyncio.to_thread(store.ping)
            assert not any(wait.done() for wait in waits)

            # When a change is announced
            await asyncio.to_thread(store.announce)

            # Then both wake up
            await asyncio.gather(*waits)

    asyncio.run(scenario())


def test_an_announcement_between_two_waits_is_not_missed(store: RedisJobStore, redis_url: str) -> None:
    async def scenario() -> None:
        async with subscribed(redis_url) as announcements:
            for _ in range(3):
                await asyncio.to_thread(store.announce)
                await announcements.wait(AN_HOUR_S)

    asyncio.run(scenario())


def test_a_wait_without_an_announcement_ends(redis_url: str) -> None:
    async def scenario() -> None:
        async with subscribed(redis_url) as announcements:
            for _ in range(3):
                await announcements.wait(0.01)

    asyncio.run(scenario())


def test_a_cancelled_wait_does_not_disturb_the_next_one(store: RedisJobStore, redis_url: str) -> None:
    async def scenario() -> None:
        async with subscribed(redis_url) as announcements:
            wait = asyncio.create_task(announcements.wait(AN_HOUR_S))
            await asyncio.to_thread(store.ping)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait

            await asyncio.to_thread(store.announce)
            await announcements.wait(AN_HOUR_S)

    asyncio.run(scenario())


def test_without_a_server_a_wait_raises() -> None:
    async def scenario() -> None:
        announcements = Announcements(f"redis://127.0.0.1:{free_port()}/0")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="Redis does not deliver announcements"):
                await announcements.wait(AN_HOUR_S)
        await announcements.close()

    asyncio.run(scenario())


def test_a_subscription_is_renewed_when_the_server_is_back(tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"

    async def scenario() -> None:
        announcements = Announcements(url)
        with redis_on(port, tmp_path) as process:
            await announcements.wait(AN_HOUR_S)
            wait = asyncio.create_task(announcements.wait(AN_HOUR_S))
            process.kill()
            with pytest.raises(StoreUnavailable):
                await wait
        with pytest.raises(StoreUnavailable):
            await announcements.wait(AN_HOUR_S)

        with redis_on(port, tmp_path):
            await announcements.wait(AN_HOUR_S)
            store = RedisJobStore(url)
            await asyncio.to_thread(store.announce)
            await announcements.wait(AN_HOUR_S)
            store.close()
        await announcements.close()

    asyncio.run(scenario())


def test_an_unused_subscriber_can_be_closed(redis_url: str) -> None:
    asyncio.run(Announcements(redis_url).close())
