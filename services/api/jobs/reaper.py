"""Sees to it that no job is forgotten: those whose worker fell silent, those never sent, those whose message was lost.

Several replicas may run one each: every change is atomic in the store, and a message too many does nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from services.api.jobs.submit import send
from services.api.state import AppState
from shared.errors import StoreUnavailable
from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus

log = logging.getLogger("kiln.reaper")


class Reaper:
    """Goes rounds of `reap`, which expire no lease before workers had the time of one to renew theirs."""

    def __init__(self, state: AppState) -> None:
        self._kiln = state
        self._wait_for_renewals()

    def go(self) -> None:
        """One round. Raises StoreUnavailable."""
        try:
            reap(self._kiln, expire=time.monotonic() >= self._expire_from_s)
        except StoreUnavailable:
            # While the store was away no worker could renew. Each gets the time of a lease to do so, or a restart
            # of Redis would take their jobs from workers that are alive.
            self._wait_for_renewals()
            raise

    def _wait_for_renewals(self) -> None:
        self._expire_from_s = time.monotonic() + self._kiln.settings.lease_s


def reap(state: AppState, *, expire: bool = True) -> None:
    """One round over all jobs that are not over. Raises StoreUnavailable."""
    if expire:
        for job in _all(state, JobStatus.RUNNING):
            _expire(job, state)
    long_ago = state.store.now() - timedelta(seconds=state.settings.lease_s)
    for job in state.store.unsent():
        # A new job may be on its way out of the API that recorded it; one that came back from a worker is not.
        if job.attempt > 0 or job.created_at < long_ago:
            send(job, state)
    # With nothing on the queue, what was sent long ago and still waits has lost its message.
    if state.broker.waiting() == 0:
        for job in _all(state, JobStatus.QUEUED):
            if job.enqueued_at is not None and job.enqueued_at < long_ago:
                send(job, state)


def _expire(job: Job, state: AppState) -> None:
    def told(after: Job) -> list[Event]:
        if after.status is JobStatus.RUNNING:
            return []
        return [Event(kind="worker_lost", message=f"{job.worker} fell silent; the job is {after.status}")]

    change = partial(transitions.expire, max_attempts=state.settings.max_attempts)
    after = state.store.update(job.id, change, events=told)
    if after.status is not JobStatus.RUNNING:
        log.warning("job %s: %s fell silent; the job is %s", job.id, job.worker, after.status)


def _all(state: AppState, status: JobStatus) -> Iterator[Job]:
    after: str | None = None
    while True:
        page = state.store.list(status, after, limit=100)
        yield from page.jobs
        if not page.has_more or not page.jobs:
            return
        after = page.jobs[-1].id
