"""Where jobs in flight live: a small port, and its Redis implementation. Its twin for tests is in memory_job_store.

All changes go through `update(job_id, change)`: an atomic read, a pure function of `shared.jobs`, a write. What belongs
together (record, metrics, events) is written together, and nothing of it if the function raises.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError, WatchError
from redis.retry import Retry

from shared.announcements import CHANNEL, channel_of
from shared.errors import IdempotencyMismatch, StoreUnavailable, UnknownJob
from shared.jobs import Event, Job, JobStatus

Change = Callable[[Job, datetime], Job]
Metrics = dict[str, float]  # one row of the series; `nimg` says where it belongs

Events = Sequence[Event] | Callable[[Job], Sequence[Event]]  # or what to tell, given the job as it was written

EVENTS_KEPT = 10_000
IDEMPOTENCY_TTL_S = 24 * 3600
TIMEOUT_S = 1.5  # a request that needs Redis is refused within 2 s when it does not answer

# Redis is up and takes no writes: its disk or its memory is full, it is a replica, or it still reads its file.
_REFUSALS = ("MISCONF", "MASTERDOWN", "NOREPLICAS")
_REFUSED = (OutOfMemoryError, ReadOnlyError)  # redis-py names these by class and cuts the word off


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
        self,
        job_id: str,
        change: Change,
        metrics: Sequence[Metrics] = (),
        events: Events = (),
        token: str | None = None,
    ) -> Job: ...
    def restore(self, job: Job, metrics: Sequence[Metrics], events: Sequence[Event]) -> bool: ...
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
        # Without redis-py's own repetitions: who calls knows better whether to wait, and a change must not run twice.
        self._redis: Any = redis.Redis.from_url(
            url, decode_responses=True, socket_timeout=timeout_s, socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

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
            job = make(_from_redis(self._redis.time()))
            while True:
                try:
                    pipe.watch(_key("job", job.id), *([used] if used else []))
                    if pipe.exists(_key("job", job.id)):
                        return job, True  # an EXEC whose answer was lost
                    if idempotency and used and (known := pipe.get(used)):
                        return self.get(same_request(json.loads(known), idempotency)), False
                    pipe.multi()
                    self._write(pipe, None, job)
                    if idempotency and used:
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

    def update(
        self,
        job_id: str,
        change: Change,
        metrics: Sequence[Metrics] = (),
        events: Events = (),
        token: str | None = None,
    ) -> Job:
        """Replaces the job by `change(job, now)` atomically, and adds metrics and events in the same stroke.

        The write carries a token. When the connection drops between the write and its answer, the repetition meets
        its own token and changes nothing more; who repeats after StoreUnavailable passes the same token again.
        """
        record, last_token = _key("job", job_id), _key("token", job_id)
        token = token or secrets.token_hex(8)
        with _translated(), self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(record)
                    text, last = pipe.mget(record, last_token)
                    before = _parse(job_id, text)
                    if last == token:
                        return before
                    after = change(before, _from_redis(pipe.time()))
                    pipe.multi()
                    self._write(pipe, before, after)
                    pipe.set(last_token, token)
                    self._add(pipe, job_id, metrics, events(after) if callable(events) else events)
                    pipe.execute()
                    return after
                except WatchError:
                    continue

    def restore(self, job: Job, metrics: Sequence[Metrics], events: Sequence[Event]) -> bool:
        """Puts back a job that the store has lost, as its worker knows it; says whether it was lost at all."""
        record = _key("job", job.id)
        with _translated(), self._redis.pipeline() as pipe:
            try:
                pipe.watch(record)
                if pipe.exists(record):
                    return False
                pipe.multi()
                self._write(pipe, None, job)
                self._add(pipe, job.id, metrics, events)
                pipe.execute()
                return True
            except WatchError:
                return False

    def unsent(self) -> Sequence[Job]:
        """Queued jobs for which no message was sent, oldest first."""
        return self._oldest(_UNSENT)

    def waiting(self, limit: int) -> Sequence[Job]:
        """The queued jobs that have waited longest."""
        return self._oldest(_index(JobStatus.QUEUED), limit)

    def _oldest(self, index: str, limit: int = 0) -> Sequence[Job]:
        with _translated():
            ids = self._redis.zrange(index, 0, limit - 1)
            texts = self._redis.mget([_key("job", job_id) for job_id in ids]) if ids else []
        return [Job.model_validate_json(text) for text in texts if text]

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
        if after.is_unsent:
            pipe.zadd(_UNSENT, {after.id: 0})
        elif before is None or before.is_unsent:
            pipe.zrem(_UNSENT, after.id)
        pipe.publish(channel_of(after.id), "changed")

    def _add(self, pipe: Any, job_id: str, metrics: Sequence[Metrics], events: Sequence[Event]) -> None:
        for row in metrics:  # a row again for the same position replaces the first: a resumed run retraces
            pipe.zremrangebyscore(_key("metrics", job_id), row["nimg"], row["nimg"])
            pipe.zadd(_key("metrics", job_id), {json.dumps(row): row["nimg"]})
        for event in events:
            fields = event.model_dump(include={"kind", "message"}) | {"data": json.dumps(event.data)}
            pipe.xadd(_key("events", job_id), fields, maxlen=EVENTS_KEPT)


@contextmanager
def _translated() -> Iterator[None]:
    """Redis's troubles in the domain's word. Answers that mean a bug of ours stay what they are."""
    try:
        yield
    except WatchError:
        raise
    except ResponseError as error:
        what = str(error).rpartition("caused error: ")[2]  # redis-py quotes the command, and so the job, before that
        if not isinstance(error, _REFUSED) and not what.startswith(_REFUSALS):
            raise
        raise StoreUnavailable(f"the job store takes no writes: {what}") from error
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"the job store does not answer: {error}") from error


def _key(*parts: str) -> str:
    return ":".join(("kiln", *parts))


_UNSENT = _key("jobs", "unsent")


def _index(status: JobStatus | None) -> str:
    return _key("jobs", status or "all")


def _parse(job_id: str, text: str | None) -> Job:
    if text is None:
        raise UnknownJob(job_id)
    return Job.model_validate_json(text)


def same_request(known: dict[str, str], idempotency: Idempotency) -> str:
    if known["body_digest"] != idempotency.body_digest:
        raise IdempotencyMismatch(f"Idempotency-Key {idempotency.key!r} was used before with another body")
    return known["job_id"]


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    at = datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    return Event(kind=fields["kind"], message=fields["message"], data=json.loads(fields["data"]), id=entry_id, at=at)


def _from_redis(time: tuple[int, int]) -> datetime:
    seconds, microseconds = time
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
