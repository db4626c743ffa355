"""Deletes jobs and sweeps KILN_KEEP_JOBS_DAYS days after their end. Models are never deleted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from services.api.jobs import control
from shared.errors import IllegalTransition, UnknownJob
from shared.jobs.record import TERMINAL, Job
from shared.jobs.store import JobStore
from shared.storage.artifacts import ArtifactStore
from shared.sweeps.record import Sweep
from shared.sweeps.store import SweepStore

INTERVAL_S = 3600.0  # between two rounds
PAGE = 100

log = logging.getLogger("kiln.retention")


def delete_old_jobs(store: JobStore, sweeps: SweepStore, artifacts: ArtifactStore, *, keep_days: float) -> None:
    """One round over all jobs and sweeps that are over. Raises StoreUnavailable."""
    before = store.now() - timedelta(days=keep_days)
    open_sweeps = {sweep.id for sweep in sweeps.open()}  # the runner still reads the jobs of their trials
    for job in _old_jobs(store, before):
        if job.sweep is not None and job.sweep.id in open_sweeps:
            continue
        try:
            with suppress(UnknownJob, IllegalTransition):  # deleted by another replica, or resumed meanwhile
                control.delete(job.id, store, artifacts)
                log.info("job %s was deleted: it ended more than %g days ago", job.id, keep_days)
        except OSError:
            log.exception("job %s was deleted, but its files jobs/%s/* remain in the artifact store", job.id, job.id)
    for sweep in _old_sweeps(sweeps, before):
        sweeps.delete(sweep.id)
        log.info("sweep %s was deleted: it ended more than %g days ago", sweep.id, keep_days)


def _old_jobs(store: JobStore, before: datetime) -> Iterator[Job]:
    """Jobs that ended before this time. Ids begin with the time of creation, which is no later than the end."""
    for status in TERMINAL:
        after, has_more = f"{before:%Y%m%d-%H%M%S}", True
        while has_more:
            page = store.list(status, after, PAGE)
            yield from (job for job in page.jobs if job.finished_at is not None and job.finished_at < before)
            has_more = page.has_more and bool(page.jobs)
            after = page.jobs[-1].id if page.jobs else after


def _old_sweeps(sweeps: SweepStore, before: datetime) -> Iterator[Sweep]:
    after, has_more = f"{before:%Y%m%d-%H%M%S}", True
    while has_more:
        page = sweeps.list(after, PAGE)
        yield from (sweep for sweep in page.sweeps if sweep.finished_at is not None and sweep.finished_at < before)
        has_more = page.has_more and bool(page.sweeps)
        after = page.sweeps[-1].id if page.sweeps else after
