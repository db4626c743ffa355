"""A job store in memory: a test double, and a second implementation for the store's contract tests."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from shared.errors import StaleFence, UnknownJob
from shared.jobs.record import Event, Job, JobStatus
from shared.jobs.store import Change, Events, Metrics, Page
from shared.jobs.transitions import require_over
from shared.storage.redis import Idempotency


class MemoryJobStore:
    """Keeps jobs in dictionaries; one lock makes every change atomic."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._metrics: dict[str, dict[float, Metrics]] = defaultdict(dict)
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._idempotency: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, str] = {}
        self._deleted: set[str] = set()

    def ping(self) -> None:
        pass

    def require_no_eviction(self) -> None:
        pass

    def now(self) -> datetime:
        return self._clock()

    def create(self, make: Callable[[datetime], Job], idempotency: Idempotency | None = None) -> tuple[Job, bool]:
        with self._lock:
            if idempotency and (first := self._idempotency.get(idempotency.key)):
                idempotency.check(first)
                if first["job_id"] in self._jobs:
                    return self.get(first["job_id"]), False
            job = make(self._clock())
            if job.id in self._jobs:
                return job, True
            self._jobs[job.id] = job
            if idempotency:
                self._idempotency[idempotency.key] = {"job_id": job.id, "body_digest": idempotency.body_digest}
            return job, True

    def get(self, job_id: str) -> Job:
        with self._lock:
            if job_id not in self._jobs:
                raise UnknownJob(job_id)
            return self._jobs[job_id]

    def update(
        self,
        job_id: str,
        change: Change,
        metrics: Sequence[Metrics] = (),
        events: Events = (),
        token: str | None = None,
    ) -> Job:
        with self._lock:
            before = self.get(job_id)
            if token is not None and self._tokens.get(job_id) == token:
                return before
            after, rows = change(before, self._clock()), {row["nimg"]: row for row in metrics}
            new_events = events(after) if callable(events) else events
            if after == before and not rows and not new_events:
                return before
            self._jobs[job_id] = after  # nothing below can fail
            if token is not None:
                self._tokens[job_id] = token
            self._add(job_id, rows, new_events)
            return after

    def restore(self, job: Job, metrics: Sequence[Metrics], events: Sequence[Event]) -> bool:
        with self._lock:
            if job.id in self._jobs:
                return False
            if job.id in self._deleted:
                raise StaleFence(f"job {job.id} was deleted")
            rows = {row["nimg"]: row for row in metrics}
            self._jobs[job.id] = job
            self._add(job.id, rows, events)
            return True

    def delete(self, job_id: str) -> None:
        with self._lock:
            require_over(self.get(job_id))
            for records in (self._jobs, self._metrics, self._events, self._tokens):
                records.pop(job_id, None)
            self._deleted.add(job_id)

    def unsent(self) -> Sequence[Job]:
        with self._lock:
            return sorted((job for job in self._jobs.values() if job.is_unsent), key=lambda job: job.id)

    def waiting(self, limit: int) -> Sequence[Job]:
        with self._lock:
            queued = (job for job in self._jobs.values() if job.status is JobStatus.QUEUED)
            return sorted(queued, key=lambda job: job.id)[:limit]

    def _add(self, job_id: str, rows: dict[float, Metrics], events: Sequence[Event]) -> None:
        self._metrics[job_id].update(rows)
        for event in events:
            number = len(self._events[job_id]) + 1
            stored = event.model_copy(update={"id": f"{number:012d}-0", "at": self._clock()})
            self._events[job_id].append(stored)

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
        pass  # no other process can see this store

    def close(self) -> None:
        pass
