"""Whether Redis answers, asked by one thread at a time however many want to know."""

from __future__ import annotations

import asyncio

from shared.errors import StoreUnavailable
from shared.jobs.store import JobStore

PATIENCE_S = 1.0  # a probe wants an answer, not the truth after the store's own timeouts


class StoreHealth:
    """A Redis that hangs takes one thread from the others, not one for each probe."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._asking: asyncio.Future[None] | None = None

    async def check(self) -> None:
        """Raises StoreUnavailable when there is no answer within PATIENCE_S."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._store.ping))
        await asyncio.wait({self._asking}, timeout=PATIENCE_S)
        if not self._asking.done():
            raise StoreUnavailable(f"the job store has not answered for {PATIENCE_S:g} s")
        self._asking.result()
