"""Sees to it that no job is forgotten: those whose worker fell silent, those never sent, those whose message was lost.

Several replicas may run one each: every change is atomic in the store, and a message too many does nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from services.api.dependencies import Services
from services.api.submission import send
from shared import jobs
from shared.errors import StoreUnavailable
from shared.jobs import Job, JobStatus

log = logging.getLogger("kiln.reaper")


class Reaper:
    def __init__(self, kiln: Services) -> None:
        self._kiln = kiln
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        interval_s = self._kiln.settings.lease_s / 3
        while not self._stop.is_set():
            try:
                reap(self._kiln)
            except StoreUnavailable as error:
                log.warning("%s", error)
            self._stop.wait(interval_s)


def reap(kiln: Services) -> None:
    """One round over all jobs that are not over. Raises StoreUnavailable."""
    for job in _all(kiln, JobStatus.RUNNING):
        after = kiln.store.update(job.id, partial(jobs.expire, max_attempts=kiln.settings.max_attempts))
        if after.status is not JobStatus.RUNNING:
            log.warning("job %s: %s fell silent; the job is %s", job.id, job.worker, after.status)
    # With nothing on the queue, what was sent long ago and still waits has lost its message.
    queue_is_empty = kiln.broker.waiting() == 0
    long_ago = kiln.store.now() - timedelta(seconds=kiln.settings.lease_s)
    for job in _all(kiln, JobStatus.QUEUED):
        if _needs_sending(job, long_ago, queue_is_empty):
            send(job, kiln)


def _needs_sending(job: Job, long_ago: datetime, queue_is_empty: bool) -> bool:
    if job.enqueued_at is not None:
        return queue_is_empty and job.enqueued_at < long_ago
    # A new job may be on its way out of the API that recorded it; one that came back from a worker is not.
    return job.attempt > 0 or job.created_at < long_ago


def _all(kiln: Services, status: JobStatus) -> Iterator[Job]:
    after: str | None = None
    while True:
        page = kiln.store.list(status, after, limit=100)
        yield from page.jobs
        if not page.has_more or not page.jobs:
            return
        after = page.jobs[-1].id
