"""Announces changes of models, aliases and jobs to every API, with the publish and subscribe commands of Redis."""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from shared.errors import StoreUnavailable

CHANNEL = "kiln:announcements"


def channel_of(job_id: str) -> str:
    """The channel that announces every change of a job."""
    return f"kiln:changed:{job_id}"


class Announcements:
    """The subscriber. An announcement reaches only current subscribers, so read the state after each `wait`."""

    def __init__(self, redis_url: str, channel: str = CHANNEL) -> None:
        self._channel = channel
        self._redis: Any = redis.asyncio.Redis.from_url(redis_url, socket_connect_timeout=2)
        self._subscription: Any = None

    async def wait(self, timeout_s: float) -> None:
        """Returns after an announcement, after a new subscription, or after `timeout_s` seconds.

        Raises StoreUnavailable. Can be cancelled at any time.
        """
        try:
            if self._subscription is None:
                subscription = self._redis.pubsub()
                await subscription.subscribe(self._channel)
                self._subscription = subscription
            await self._subscription.get_message(timeout=timeout_s)
        except (RedisError, OSError) as error:
            self._subscription = None
            raise StoreUnavailable(f"Redis does not deliver announcements: {error}") from error

    async def close(self) -> None:
        if self._subscription is not None:
            await self._subscription.aclose()
        await self._redis.aclose()
