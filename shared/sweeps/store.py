"""Where sweeps live: beside the jobs, in Redis; and a twin in memory, for tests.

As in shared.jobs.store, all changes are pure functions, made atomically: of several writers none overwrites another.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from redis.exceptions import WatchError

from shared.errors import UnknownSweep
from shared.storage.redis import (
    IDEMPOTENCY_TTL_S,
    TIMEOUT_S,
    Idempotency,
    connect,
    from_redis,
    idempotency_key,
    key,
    redis_errors,
)
from shared.sweeps.record import Sweep

Make = Callable[[datetime], Sweep]
Change = Callable[[Sweep, datetime], Sweep]

_ALL, _OPEN = key("sweeps", "all"), key("sweeps", "open")


@dataclass(frozen=True)
class SweepPage:
    sweeps: Sequence[Sweep]
    has_more: bool


class SweepStore(Protocol):
    """Raises StoreUnavailable when it cannot be reached, UnknownSweep for an id it does not have."""

    def create(self, make: Make, idempotency: Idempotency | None = None) -> tuple[Sweep, bool]: ...
    def get(self, sweep_id: str) -> Sweep: ...
    def update(self, sweep_id: str, change: Change) -> Sweep: ...
    def open(self) -> Sequence[Sweep]: ...
    def list(self, after: str | None = None, limit: int = 20) -> SweepPage: ...
    def close(self) -> None: ...


class RedisSweepStore:
    """The record as JSON, an index of all sweeps, and one of those that are not over."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = connect(url, timeout_s)

    def create(self, make: Make, idempotency: Idempotency | None = None) -> tuple[Sweep, bool]:
        """Stores `make(now)`. Returns the sweep and whether it is new: the same Idempotency-Key gives the same sweep.

        Raises IdempotencyMismatch when the key came with another body before.
        """
        used = idempotency_key("idempotency-of-sweeps", idempotency)
        with redis_errors(), self._redis.pipeline() as pipe:
            sweep = make(from_redis(self._redis.time()))
            while True:
                try:
                    pipe.watch(key("sweep", sweep.id), *([used] if used else []))
                    if idempotency and used and (known := pipe.get(used)):
                        note = json.loads(known)
                        idempotency.check(note)
                        return self.get(note["sweep_id"]), False
                    pipe.multi()
                    self._write(pipe, sweep)
                    if idempotency and used:
                        note = {"sweep_id": sweep.id, "body_digest": idempotency.body_digest}
                        pipe.set(used, json.dumps(note), ex=IDEMPOTENCY_TTL_S)
                    pipe.execute()
                    return sweep, True
                except WatchError:
                    continue

    def get(self, sweep_id: str) -> Sweep:
        with redis_errors():
            return _parse(sweep_id, self._redis.get(key("sweep", sweep_id)))

    def update(self, sweep_id: str, change: Change) -> Sweep:
        """Replaces the sweep by `change(sweep, now)`. Changes may be made twice, so they need no token."""
        record = key("sweep", sweep_id)
        with redis_errors(), self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(record)
                    before = _parse(sweep_id, pipe.get(record))
                    after = change(before, from_redis(pipe.time()))
                    if after == before:
                        return before
                    pipe.multi()
                    self._write(pipe, after)
                    pipe.execute()
                    return after
                except WatchError:
                    continue

    def open(self) -> Sequence[Sweep]:
        """Those that are not over, oldest first."""
        with redis_errors():
            return self._read(self._redis.zrange(_OPEN, 0, -1))

    def list(self, after: str | None = None, limit: int = 20) -> SweepPage:
        """Sweeps newest first; `after` is the id that the last page ended with. Ids sort by time."""
        start = f"({after}" if after else "+"
        with redis_errors():
            ids = self._redis.zrange(_ALL, start, "-", desc=True, bylex=True, offset=0, num=limit + 1)
            return SweepPage(self._read(ids[:limit]), has_more=len(ids) > limit)

    def close(self) -> None:
        self._redis.close()

    def _read(self, ids: Sequence[str]) -> Sequence[Sweep]:
        texts = self._redis.mget([key("sweep", sweep_id) for sweep_id in ids]) if ids else []
        return [Sweep.model_validate_json(text) for text in texts if text]

    def _write(self, pipe: Any, sweep: Sweep) -> None:
        pipe.set(key("sweep", sweep.id), sweep.model_dump_json())
        pipe.zadd(_ALL, {sweep.id: 0})
        if sweep.is_over:
            pipe.zrem(_OPEN, sweep.id)
        else:
            pipe.zadd(_OPEN, {sweep.id: 0})


class MemorySweepStore:
    """The same, in one process."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._sweeps: dict[str, Sweep] = {}
        self._requests: dict[str, dict[str, str]] = {}

    def create(self, make: Make, idempotency: Idempotency | None = None) -> tuple[Sweep, bool]:
        with self._lock:
            if idempotency and (known := self._requests.get(idempotency.key)):
                idempotency.check(known)
                return self.get(known["sweep_id"]), False
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

    def open(self) -> Sequence[Sweep]:
        with self._lock:
            return sorted((sweep for sweep in self._sweeps.values() if not sweep.is_over), key=lambda sweep: sweep.id)

    def list(self, after: str | None = None, limit: int = 20) -> SweepPage:
        with self._lock:
            ids = sorted((sweep_id for sweep_id in self._sweeps if not after or sweep_id < after), reverse=True)
            return SweepPage([self._sweeps[sweep_id] for sweep_id in ids[:limit]], has_more=len(ids) > limit)

    def close(self) -> None:
        pass


def _parse(sweep_id: str, text: str | None) -> Sweep:
    if text is None:
        raise UnknownSweep(sweep_id)
    return Sweep.model_validate_json(text)
