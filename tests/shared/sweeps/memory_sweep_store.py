"""A sweep store in memory: a test double, and a second implementation for the store's contract tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from shared.errors import UnknownSweep
from shared.storage.redis import Idempotency
from shared.sweeps.record import Sweep
from shared.sweeps.store import Change, Make, SweepPage


class MemorySweepStore:
    """Keeps sweeps in a dictionary; one lock makes every change atomic."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._sweeps: dict[str, Sweep] = {}
        self._requests: dict[str, dict[str, str]] = {}

    def create(self, make: Make, idempotency: Idempotency | None = None) -> tuple[Sweep, bool]:
        with self._lock:
            if idempotency and (first := self._requests.get(idempotency.key)):
                idempotency.check(first)
                return self.get(first["sweep_id"]), False
            sweep = make(self._clock())
            self._sweeps[sweep.id] = sweep
            if idempotency:
                self._requests[idempotency.key] = {"sweep_id": sweep.id, "body_digest": idempotency.body_digest}
            return sweep, True

    def get(self, sweep_id: str) -> Sweep:
        with self._lock:
            if sweep_id not in self._sweeps:
                raise UnknownSweep(sweep_id)
            return self._sweeps[sweep_id]

    def update(self, sweep_id: str, change: Change) -> Sweep:
        with self._lock:
            self._sweeps[sweep_id] = change(self.get(sweep_id), self._clock())
            return self._sweeps[sweep_id]

    def delete(self, sweep_id: str) -> None:
        with self._lock:
            self._sweeps.pop(sweep_id, None)

    def open(self) -> Sequence[Sweep]:
        with self._lock:
            return sorted((sweep for sweep in self._sweeps.values() if not sweep.is_over), key=lambda sweep: sweep.id)

    def list(self, after: str | None = None, limit: int = 20) -> SweepPage:
        with self._lock:
            ids = sorted((sweep_id for sweep_id in self._sweeps if not after or sweep_id < after), reverse=True)
            return SweepPage([self._sweeps[sweep_id] for sweep_id in ids[:limit]], has_more=len(ids) > limit)

    def close(self) -> None:
        pass
