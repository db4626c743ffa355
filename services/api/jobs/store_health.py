"""Checks whether Redis responds, with one thread however many probes arrive."""

from __future__ import annotations

import asyncio

from shared.errors import StoreUnavailable
from shared.jobs.store import JobStore

PROBE_TIMEOUT_S = 1.0  # shorter than the store's own timeouts: a probe needs its response soon


class StoreHealth:
    """All concurrent probes share one PING, so that a Redis that hangs blocks one thread only."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._ping: asyncio.Future[None] | None = None

    async def check(self) -> None:
        """Raises StoreUnavailable when there is no response within PROBE_TIMEOUT_S."""
        if self._ping is None or self._ping.done():
            self._ping = asyncio.ensure_future(asyncio.to_thread(self._store.ping))
        await asyncio.wait({self._ping}, timeout=PROBE_TIMEOUT_S)
        if not self._ping.done():
            raise StoreUnavailable(f"the job store has not responded for {PROBE_TIMEOUT_S:g} s")
        self._ping.result()
