"""Re-enqueues jobs that no worker would pick up, because their lease expired or their message is missing.

Every replica of the API may run a reaper: each change is atomic in the store, and a duplicate message does nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from services.api.jobs.submit import enqueue
from shared.errors import StoreUnavailable
from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus
from shared.jobs.store import JobStore
from shared.storage.celery_app import Broker

log = logging.getLogger("kiln.reaper")


class Reaper:
    """Each `run` is one round over all jobs in flight."""

    def __init__(self, store: JobStore, broker: Broker, *, lease_s: float, max_attempts: int) -> None:
        self._store, self._broker = store, broker
        self._lease_s, self._max_attempts = lease_s, max_attempts
        self._wait_for_renewals()

    def run(self) -> None:
        """One round; leases expire only after all workers had the time to renew theirs. Raises StoreUnavailable."""
        try:
            self.reap(expire=time.monotonic() >= self._expire_from_s)
        except StoreUnavailable:
            # No worker could renew its lease during the outage. Each gets the length of a lease to do so; otherwise
            # a restart of Redis would take jobs away from workers that are alive.
            self._wait_for_renewals()
            raise

    def _wait_for_renewals(self) -> None:
        self._expire_from_s = time.monotonic() + self._lease_s

    def reap(self, *, expire: bool = True) -> None:
        """One round. With `expire`, jobs whose lease has run out are queued again or given up."""
        if expire:
            for job in self._jobs(JobStatus.RUNNING):
                self._expire(job)
        one_lease_ago = self._store.now() - timedelta(seconds=self._lease_s)
        for job in self._store.unsent():
            # The API that stored a new job may still be about to send it; a job that has run before has no such API.
            if job.attempt > 0 or job.created_at < one_lease_ago:
                enqueue(job, self._store, self._broker)
        # The queue is empty, so a job that was sent long ago and still waits has lost its message.
        if self._broker.waiting() == 0:
            for job in self._jobs(JobStatus.QUEUED):
                if job.enqueued_at is not None and job.enqueued_at < one_lease_ago:
                    enqueue(job, self._store, self._broker)

    def _expire(self, job: Job) -> None:
        def events(after: Job) -> list[Event]:
            if after.status is JobStatus.RUNNING:
                return []
            message = f"{job.worker} stopped renewing its lease; the job is {after.status}"
            return [Event(kind="worker_lost", message=message)]

        change = partial(transitions.expire, max_attempts=self._max_attempts)
        after = self._store.update(job.id, change, events=events)
        if after.status is not JobStatus.RUNNING:
            log.warning("job %s: %s stopped renewing its lease; the job is %s", job.id, job.worker, after.status)

    def _jobs(self, status: JobStatus) -> Iterator[Job]:
        after: str | None = None
        while True:
            page = self._store.list(status, after, limit=100)
            yield from page.jobs
            if not page.has_more or not page.jobs:
                return
            after = page.jobs[-1].id
