"""The store of sweeps: a protocol and its Redis implementation.

As in shared.jobs.store, every change is a pure function that runs in an atomic read and write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from shared.errors import UnknownSweep
from shared.storage.records import read_record, readable_records
from shared.storage.redis import TIMEOUT_S, Idempotency, connect, create_once, from_redis, key, redis_errors, transact
from shared.sweeps.record import Sweep

Make = Callable[[datetime], Sweep]
Change = Callable[[Sweep, datetime], Sweep]

_ALL, _OPEN = key("sweeps", "all"), key("sweeps", "open")


@dataclass(frozen=True)
class SweepPage:
    sweeps: Sequence[Sweep]
    has_more: bool


class SweepStore(Protocol):
    """Every method raises StoreUnavailable during an outage, and UnknownSweep for an unknown id."""

    def create(self, make: Make, idempotency: Idempotency | None = None) -> tuple[Sweep, bool]: ...
    def get(self, sweep_id: str) -> Sweep: ...
    def update(self, sweep_id: str, change: Change) -> Sweep: ...
    def delete(self, sweep_id: str) -> None: ...
    def open(self) -> Sequence[Sweep]: ...
    def list(self, after: str | None = None, limit: int = 20) -> SweepPage: ...
    def close(self) -> None: ...


class RedisSweepStore:
    """Sweeps in Redis: the record as JSON, an index of all sweeps, and an index of the open ones."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = connect(url, timeout_s)

    def create(self, make: Make, idempotency: Idempotency | None = None) -> tuple[Sweep, bool]:
        """Stores `make(now)`. Returns the sweep and whether it is new: the same Idempotency-Key returns the same sweep.

        Raises IdempotencyMismatch if the key was used before with another body.
        """
        with redis_errors():
            sweep = make(from_redis(self._redis.time()))
        sweep_id = create_once(self._redis, "sweep", sweep.id, idempotency, lambda pipe: self._write(pipe, sweep))
        return (sweep, True) if sweep_id == sweep.id else (self.get(sweep_id), False)

    def get(self, sweep_id: str) -> Sweep:
        with redis_errors():
            return _parse(sweep_id, self._redis.get(key("sweep", sweep_id)))

    def update(self, sweep_id: str, change: Change) -> Sweep:
        """Replaces the sweep by `change(sweep, now)`. Changes are idempotent, so they need no token."""
        record = key("sweep", sweep_id)

        def attempt(pipe: Any) -> Sweep:
            before = _parse(sweep_id, pipe.get(record))
            after = change(before, from_redis(pipe.time()))
            if after != before:
                pipe.multi()
                self._write(pipe, after)
            return after

        return transact(self._redis, record, attempt)

    def delete(self, sweep_id: str) -> None:
        """Deletes the sweep's record, if there is one. Its jobs stay."""
        with redis_errors(), self._redis.pipeline() as pipe:
            pipe.delete(key("sweep", sweep_id))
            pipe.zrem(_ALL, sweep_id)
            pipe.zrem(_OPEN, sweep_id)
            pipe.execute()

    def open(self) -> Sequence[Sweep]:
        """The sweeps that are not over, oldest first."""
        with redis_errors():
            return self._read(self._redis.zrange(_OPEN, 0, -1))

    def list(self, after: str | None = None, limit: int = 20) -> SweepPage:
        """A page of sweeps, newest first. `after` is the last id of the previous page."""
        start = f"({after}" if after else "+"
        with redis_errors():
            ids = self._redis.zrange(_ALL, start, "-", desc=True, bylex=True, offset=0, num=limit + 1)
            return SweepPage(self._read(ids[:limit]), has_more=len(ids) > limit)

    def close(self) -> None:
        self._redis.close()

    def _read(self, ids: Sequence[str]) -> Sequence[Sweep]:
        texts = self._redis.mget([key("sweep", sweep_id) for sweep_id in ids]) if ids else []
        names = [f"sweep {sweep_id}" for sweep_id in ids]
        return readable_records(Sweep, zip(names, texts, strict=True))

    def _write(self, pipe: Any, sweep: Sweep) -> None:
        pipe.set(key("sweep", sweep.id), sweep.model_dump_json())
        pipe.zadd(_ALL, {sweep.id: 0})
        if sweep.is_over:
            pipe.zrem(_OPEN, sweep.id)
        else:
            pipe.zadd(_OPEN, {sweep.id: 0})


def _parse(sweep_id: str, text: str | None) -> Sweep:
    if text is None:
        raise UnknownSweep(sweep_id)
    return read_record(Sweep, text, f"sweep {sweep_id}")
