"""Checks whether Redis responds and is configured to keep jobs. All probes share one thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from shared.errors import EvictingStore, StoreUnavailable
from shared.jobs.store import JobStore

PROBE_TIMEOUT_S = 1.0  # shorter than the store's own timeouts: a probe needs its response soon


class StoreHealth:
    """All concurrent probes share one check, so that a Redis that hangs blocks one thread only."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        # A thread of its own: the default pool of asyncio is small, and may be full of other work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-health")
        self._probe: asyncio.Future[list[str]] | None = None

    async def check(self) -> list[str]:
        """Returns warnings. Raises StoreUnavailable when there is no response within PROBE_TIMEOUT_S."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().run_in_executor(self._thread, self._check_store)
        await asyncio.wait({self._probe}, timeout=PROBE_TIMEOUT_S)
        if not self._probe.done():
            raise StoreUnavailable(f"the job store has not responded for {PROBE_TIMEOUT_S:g} s")
        return self._probe.result()

    def _check_store(self) -> list[str]:
        self._store.ping()
        try:
            self._store.require_no_eviction()
        except EvictingStore as error:
            return [str(error)]
        return []
