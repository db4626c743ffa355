"""The store of jobs: a protocol and its Redis implementation.

Every change goes through `update(job_id, change)`: an atomic read, a pure function of `shared.jobs.transitions`, and
one write of record, metrics and events together. If the function raises, nothing is written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from shared.errors import StaleFence, UnknownJob
from shared.jobs.record import Event, Job, JobStatus
from shared.jobs.transitions import require_over
from shared.storage.pubsub import CHANNEL, channel_of
from shared.storage.records import read_record, readable_records
from shared.storage.redis import (
    TIMEOUT_S,
    Idempotency,
    connect,
    create_once,
    from_redis,
    key,
    redis_errors,
    require_no_eviction,
    transact,
)

Change = Callable[[Job, datetime], Job]
Metrics = dict[str, float]  # one row of the series; `nimg` is its position

Events = Sequence[Event] | Callable[[Job], Sequence[Event]]  # or a function of the changed job that returns them

MAX_EVENTS = 10_000  # per job
TOKEN_TTL_S = 24 * 3600  # far longer than a worker repeats one write
TOMBSTONE_TTL_S = 7 * 24 * 3600  # after that, no worker still believes that it owns a deleted job


@dataclass(frozen=True)
class Page:
    jobs: list[Job]
    has_more: bool


class JobStore(Protocol):
    """Every method raises StoreUnavailable during an outage, and UnknownJob for an id that the store does not have.

    A record that this version cannot read raises CorruptArtifact; lists leave it out.
    """

    def ping(self) -> None: ...
    def require_no_eviction(self) -> None: ...
    def now(self) -> datetime: ...
    def create(self, make: Callable[[datetime], Job], idempotency: Idempotency | None = None) -> tuple[Job, bool]: ...
    def get(self, job_id: str) -> Job: ...
    def update(
        self,
        job_id: str,
        change: Change,
        metrics: Sequence[Metrics] = (),
        events: Events = (),
        token: str | None = None,
    ) -> Job: ...
    def restore(self, job: Job, metrics: Sequence[Metrics], events: Sequence[Event]) -> bool: ...
    def delete(self, job_id: str) -> None: ...
    def unsent(self) -> Sequence[Job]: ...
    def waiting(self, limit: int) -> Sequence[Job]: ...
    def list(self, status: JobStatus | None = None, after: str | None = None, limit: int = 20) -> Page: ...
    def metrics(self, job_id: str, after_nimg: int = -1) -> Sequence[Metrics]: ...
    def events(self, job_id: str, after: str = "") -> Sequence[Event]: ...
    def announce(self) -> None: ...
    def close(self) -> None: ...


class RedisJobStore:
    """Jobs in Redis: the record as JSON, an index per status, a sorted set of metrics, a stream of events."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = connect(url, timeout_s)

    def ping(self) -> None:
        with redis_errors():
            self._redis.ping()

    def require_no_eviction(self) -> None:
        """Raises EvictingStore if Redis may delete jobs to free memory."""
        require_no_eviction(self._redis)

    def now(self) -> datetime:
        """The time of Redis. Leases are measured by this clock only."""
        with redis_errors():
            return from_redis(self._redis.time())

    def create(self, make: Callable[[datetime], Job], idempotency: Idempotency | None = None) -> tuple[Job, bool]:
        """Stores `make(now)`. Returns the job and whether it is new: the same Idempotency-Key returns the same job.

        Raises IdempotencyMismatch if the key was used before with another body.
        """
        job = make(self.now())
        job_id = create_once(self._redis, "job", job.id, idempotency, lambda pipe: self._write(pipe, None, job))
        return (job, True) if job_id == job.id else (self.get(job_id), False)

    def get(self, job_id: str) -> Job:
        with redis_errors():
            text = self._redis.get(key("job", job_id))
        return _parse(job_id, text)

    def update(
        self,
        job_id: str,
        change: Change,
        metrics: Sequence[Metrics] = (),
        events: Events = (),
        token: str | None = None,
    ) -> Job:
        """Replaces the job by `change(job, now)` and adds metrics and events, in one atomic write.

        The write stores a token. If the connection drops before the reply, the write is attempted again; it then finds
        its own token and changes nothing. A caller that repeats the call after StoreUnavailable passes the same token.
        """
        record, last_token = key("job", job_id), key("token", job_id)
        token = token or secrets.token_hex(8)

        def attempt(pipe: Any) -> Job:
            text, last = pipe.mget(record, last_token)
            before = _parse(job_id, text)
            if last == token:
                return before
            after = change(before, from_redis(pipe.time()))
            new_events = events(after) if callable(events) else events
            if after == before and not metrics and not new_events:
                return before  # keep the token of the last write, because its worker may be about to repeat it
            pipe.multi()
            self._write(pipe, before, after)
            pipe.set(last_token, token, ex=TOKEN_TTL_S)
            self._add(pipe, job_id, metrics, new_events)
            return after

        return transact(self._redis, record, attempt)

    def restore(self, job: Job, metrics: Sequence[Metrics], events: Sequence[Event]) -> bool:
        """Stores a job that Redis has lost, from its worker's copy. Returns False if Redis still has the job.

        Raises StaleFence if a user has deleted the job.
        """
        record = key("job", job.id)

        def attempt(pipe: Any) -> bool:
            if pipe.exists(record):
                return False
            if pipe.exists(_tombstone(job.id)):
                raise StaleFence(f"job {job.id} was deleted")
            pipe.multi()
            self._write(pipe, None, job)
            self._add(pipe, job.id, metrics, events)
            return True

        return transact(self._redis, record, attempt)

    def delete(self, job_id: str) -> None:
        """Deletes a job that is over, with its metrics and events. Raises IllegalTransition for any other."""
        record = key("job", job_id)

        def attempt(pipe: Any) -> None:
            job = _parse(job_id, pipe.get(record))
            require_over(job)
            pipe.multi()
            pipe.delete(record, key("metrics", job_id), key("events", job_id), key("token", job_id))
            for index in (_index(None), _index(job.status), _UNSENT):
                pipe.zrem(index, job_id)
            pipe.set(_tombstone(job_id), "deleted", ex=TOMBSTONE_TTL_S)

        transact(self._redis, record, attempt)

    def unsent(self) -> Sequence[Job]:
        """Queued jobs for which no message was sent, oldest first."""
        return self._oldest(_UNSENT)

    def waiting(self, limit: int) -> Sequence[Job]:
        """The oldest `limit` queued jobs."""
        return self._oldest(_index(JobStatus.QUEUED), limit)

    def _oldest(self, index: str, limit: int = 0) -> Sequence[Job]:
        with redis_errors():
            ids = self._redis.zrange(index, 0, limit - 1)
            texts: list[str | None] = self._redis.mget([key("job", job_id) for job_id in ids]) if ids else []
        return _readable(ids, texts)

    def list(self, status: JobStatus | None = None, after: str | None = None, limit: int = 20) -> Page:
        """A page of jobs, newest first. `after` is the last id of the previous page."""
        index = _index(status)
        start = f"({after}" if after else "+"
        with redis_errors():
            ids = self._redis.zrange(index, start, "-", desc=True, bylex=True, offset=0, num=limit + 1)
            texts = self._redis.mget([key("job", job_id) for job_id in ids[:limit]]) if ids else []
        return Page(_readable(ids[:limit], texts), has_more=len(ids) > limit)

    def metrics(self, job_id: str, after_nimg: int = -1) -> Sequence[Metrics]:
        with redis_errors():
            rows = self._redis.zrange(key("metrics", job_id), f"({after_nimg}", "+inf", byscore=True)
        return [json.loads(row) for row in rows]

    def events(self, job_id: str, after: str = "") -> Sequence[Event]:
        with redis_errors():
            entries = self._redis.xrange(key("events", job_id), min=f"({after}" if after else "-")
        return [_event(entry_id, fields) for entry_id, fields in entries]

    def announce(self) -> None:
        """Informs every API that a model was published or an alias has moved (`shared.storage.pubsub`)."""
        with redis_errors():
            self._redis.publish(CHANNEL, "changed")

    def close(self) -> None:
        self._redis.close()

    def _write(self, pipe: Any, before: Job | None, after: Job) -> None:
        pipe.set(key("job", after.id), after.model_dump_json())
        if before is None:
            pipe.zadd(_index(None), {after.id: 0})
        if before is None or before.status is not after.status:
            if before is not None:
                pipe.zrem(_index(before.status), after.id)
            pipe.zadd(_index(after.status), {after.id: 0})
        if after.is_unsent:
            pipe.zadd(_UNSENT, {after.id: 0})
        elif before is None or before.is_unsent:
            pipe.zrem(_UNSENT, after.id)
        pipe.publish(channel_of(after.id), "changed")

    def _add(self, pipe: Any, job_id: str, metrics: Sequence[Metrics], events: Sequence[Event]) -> None:
        for row in metrics:  # a resumed run repeats positions; the new row replaces the old one
            pipe.zremrangebyscore(key("metrics", job_id), row["nimg"], row["nimg"])
            pipe.zadd(key("metrics", job_id), {json.dumps(row): row["nimg"]})
        for event in events:
            fields = event.model_dump(include={"kind", "message"}) | {"data": json.dumps(event.data)}
            pipe.xadd(key("events", job_id), fields, maxlen=MAX_EVENTS)


_UNSENT = key("jobs", "unsent")


def _tombstone(job_id: str) -> str:
    return key("deleted", job_id)


def _index(status: JobStatus | None) -> str:
    return key("jobs", status or "all")


def _parse(job_id: str, text: str | None) -> Job:
    if text is None:
        raise UnknownJob(job_id)
    return read_record(Job, text, f"job {job_id}")


def _readable(job_ids: Sequence[str], texts: Sequence[str | None]) -> list[Job]:
    return readable_records(Job, ((f"job {job_id}", text) for job_id, text in zip(job_ids, texts, strict=True)))


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    at = datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    return Event(kind=fields["kind"], message=fields["message"], data=json.loads(fields["data"]), id=entry_id, at=at)
