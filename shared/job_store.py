"""Where jobs in flight live: a small port, its Redis implementation, and an in-memory twin for tests.

All changes go through `update(job_id, change)`: an atomic read, a pure function of `shared.jobs`, a write. What belongs
together (record, metrics, events) is written together, and nothing of it if the function raises.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import redis
from redis.exceptions import RedisError, ResponseError, WatchError

from shared.announcements import CHANNEL
from shared.errors import IdempotencyMismatch, StoreUnavailable, UnknownJob
from shared.jobs import Event, Job, JobStatus

Change = Callable[[Job, datetime], Job]
Metrics = dict[str, float]  # one row of the series; `nimg` says where it belongs

EVENTS_KEPT = 10_000
IDEMPOTENCY_TTL_S = 24 * 3600


@dataclass(frozen=True)
class Idempotency:
    """A client's Idempotency-Key, and a digest of the request it came with."""

    key: str
    body_digest: str


@dataclass(frozen=True)
class Page:
    jobs: list[Job]
    has_more: bool


class JobStore(Protocol):
    """Raises StoreUnavailable when it cannot be reached, UnknownJob for an id it does not have."""

    def ping(self) -> None: ...
    def now(self) -> datetime: ...
    def create(self, make: Callable[[datetime], Job], idempotency: Idempotency | None = None) -> tuple[Job, bool]: ...
    def get(self, job_id: str) -> Job: ...
    def update(
        self, job_id: str, change: Change, metrics: Sequence[Metrics] = (), events: Sequence[Event] = ()
    ) -> Job: ...
    def list(self, status: JobStatus | None = None, after: str | None = None, limit: int = 20) -> Page: ...
    def metrics(self, job_id: str, after_nimg: int = -1) -> Sequence[Metrics]: ...
    def events(self, job_id: str, after: str = "") -> Sequence[Event]: ...
    def announce(self) -> None: ...
    def close(self) -> None: ...


class RedisJobStore:
    """Jobs in Redis: the record as JSON, an index per status, a sorted set of metrics, a stream of events."""

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        self._redis: Any = redis.Redis.from_url(
            url, decode_responses=True, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )

    def ping(self) -> None:
        with _translated():
            self._redis.ping()

    def now(self) -> datetime:
        """The store's clock, the only one that leases are measured by."""
        with _translated():
            return _from_redis(self._redis.time())

    def create(self, make: Callable[[datetime], Job], idempotency: Idempotency | None = None) -> tuple[Job, bool]:
        """Stores `make(now)`. Returns the job and whether it is new: the same Idempotency-Key gives the same job.

        Raises IdempotencyMismatch when the key came with another body before.
        """
        used = _key("idempotency", hashlib.sha256(idempotency.key.encode()).hexdigest()) if idempotency else None
        with _translated(), self._redis.pipeline() as pipe:
            while True:
                try:
                    if used and idempotency:
                        pipe.watch(used)
                        if known := pipe.get(used):
                            return self.get(_same_request(json.loads(known), idempotency)), False
                    job = make(_from_redis(self._redis.time()))
                    pipe.multi()
                    self._write(pipe, None, job)
                    if used and idempotency:
                        note = {"job_id": job.id, "body_digest": idempotency.body_digest}
                        pipe.set(used, json.dumps(note), ex=IDEMPOTENCY_TTL_S)
                    pipe.execute()
                    return job, True
                except WatchError:
                    continue

    def get(self, job_id: str) -> Job:
        with _translated():
            text = self._redis.get(_key("job", job_id))
        return _parse(job_id, text)

    def update(self, job_id: str, change: Change, metrics: Sequence[Metrics] = (), events: Sequence[Event] = ()) -> Job:
        """Replaces the job by `change(job, now)` atomically, and adds metrics and events in the same stroke."""
        record = _key("job", job_id)
        with _translated(), self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(record)
                    before = _parse(job_id, pipe.get(record))
                    after = change(before, _from_redis(pipe.time()))
                    pipe.multi()
                    self._write(pipe, before, after)
                    for row in metrics:  # a row again for the same position replaces the first: a resumed run retraces
                        pipe.zremrangebyscore(_key("metrics", job_id), row["nimg"], row["nimg"])
                        pipe.zadd(_key("metrics", job_id), {json.dumps(row): row["nimg"]})
                    for event in events:
                        fields = event.model_dump(include={"kind", "message"}) | {"data": json.dumps(event.data)}
                        pipe.xadd(_key("events", job_id), fields, maxlen=EVENTS_KEPT)
                    pipe.execute()
                    return after
                except WatchError:
                    continue

    def list(self, status: JobStatus | None = None, after: str | None = None, limit: int = 20) -> Page:
        """Jobs newest first; `after` is the id that the last page ended with. Ids sort by time."""
        index = _index(status)
        start = f"({after}" if after else "+"
        with _translated():
            ids = self._redis.zrange(index, start, "-", desc=True, bylex=True, offset=0, num=limit + 1)
            texts = self._redis.mget([_key("job", job_id) for job_id in ids[:limit]]) if ids else []
        return Page([Job.model_validate_json(text) for text in texts if text], has_more=len(ids) > limit)

    def metrics(self, job_id: str, after_nimg: int = -1) -> Sequence[Metrics]:
        with _translated():
            rows = self._redis.zrange(_key("metrics", job_id), f"({after_nimg}", "+inf", byscore=True)
        return [json.loads(row) for row in rows]

    def events(self, job_id: str, after: str = "") -> Sequence[Event]:
        with _translated():
            entries = self._redis.xrange(_key("events", job_id), min=f"({after}" if after else "-")
        return [_event(entry_id, fields) for entry_id, fields in entries]

    def announce(self) -> None:
        """Wakes every API that waits for news (`shared.announcements`): there is a new model, or an alias moved."""
        with _translated():
            self._redis.publish(CHANNEL, "changed")

    def close(self) -> None:
        self._redis.close()

    def _write(self, pipe: Any, before: Job | None, after: Job) -> None:
        pipe.set(_key("job", after.id), after.model_dump_json())
        if before is None:
            pipe.zadd(_index(None), {after.id: 0})
        if before is None or before.status is not after.status:
            if before is not None:
                pipe.zrem(_index(before.status), after.id)
            pipe.zadd(_index(after.status), {after.id: 0})


class MemoryJobStore:
    """The same, in one process: for tests, and the contract that both must keep."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._metrics: dict[str, dict[float, Metrics]] = defaultdict(dict)
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._idempotency: dict[str, dict[str, str]] = {}

    def ping(self) -> None:
        pass

    def now(self) -> datetime:
        return self._clock()

    def create(self, make: Callable[[datetime], Job], idempotency: Idempotency | None = None) -> tuple[Job, bool]:
        with self._lock:
            if idempotency and (known := self._idempotency.get(idempotency.key)):
                return self.get(_same_request(known, idempotency)), False
            job = make(self._clock())
            self._jobs[job.id] = job
            if idempotency:
                self._idempotency[idempotency.key] = {"job_id": job.id, "body_digest": idempotency.body_digest}
            return job, True

    def get(self, job_id: str) -> Job:
        with self._lock:
            if job_id not in self._jobs:
                raise UnknownJob(job_id)
            return self._jobs[job_id]

    def update(self, job_id: str, change: Change, metrics: Sequence[Metrics] = (), events: Sequence[Event] = ()) -> Job:
        with self._lock:
            now = self._clock()
            after, rows = change(self.get(job_id), now), {row["nimg"]: row for row in metrics}
            self._jobs[job_id] = after  # from here on nothing can fail
            self._metrics[job_id].update(rows)
            for event in events:
                stored = event.model_copy(update={"id": f"{len(self._events[job_id]) + 1:012d}-0", "at": now})
                self._events[job_id].append(stored)
            return after

    def list(self, status: JobStatus | None = None, after: str | None = None, limit: int = 20) -> Page:
        with self._lock:
            ids = sorted((j.id for j in self._jobs.values() if status in (None, j.status)), reverse=True)
            ids = [job_id for job_id in ids if not after or job_id < after]
            return Page([self._jobs[job_id] for job_id in ids[:limit]], has_more=len(ids) > limit)

    def metrics(self, job_id: str, after_nimg: int = -1) -> Sequence[Metrics]:
        with self._lock:
            return [row for nimg, row in sorted(self._metrics[job_id].items()) if nimg > after_nimg]

    def events(self, job_id: str, after: str = "") -> Sequence[Event]:
        with self._lock:
            return [event for event in self._events[job_id] if event.id > after]

    def announce(self) -> None:
        pass  # nobody else can see this store

    def close(self) -> None:
        pass


@contextmanager
def _translated() -> Iterator[None]:
    """Redis's troubles in the domain's word. Answers that mean a bug of ours stay what they are."""
    try:
        yield
    except (WatchError, ResponseError):
        raise
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"the job store does not answer: {error}") from error


def _key(*parts: str) -> str:
    return ":".join(("kiln", *parts))


def _index(status: JobStatus | None) -> str:
    return _key("jobs", status or "all")


def _parse(job_id: str, text: str | None) -> Job:
    if text is None:
        raise UnknownJob(job_id)
    return Job.model_validate_json(text)


def _same_request(known: dict[str, str], idempotency: Idempotency) -> str:
    if known["body_digest"] != idempotency.body_digest:
        raise IdempotencyMismatch(f"Idempotency-Key {idempotency.key!r} was used before with another body")
    return known["job_id"]


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    at = datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    return Event(kind=fields["kind"], message=fields["message"], data=json.loads(fields["data"]), id=entry_id, at=at)


def _from_redis(time: tuple[int, int]) -> datetime:
    seconds, microseconds = time
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
