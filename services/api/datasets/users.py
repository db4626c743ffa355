"""Finds out whether a data set is needed: by a job that is not over, or by a sweep that submits further jobs."""

from __future__ import annotations

from collections.abc import Iterator

from shared.configs.generate import GENERATE
from shared.errors import Conflict
from shared.jobs.record import Job, JobStatus
from shared.jobs.store import JobStore
from shared.sweeps.store import SweepStore

ACTIVE = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
PAGE = 100


def require_unused(name: str, verb: str, store: JobStore, sweeps: SweepStore) -> None:
    """Raises Conflict, which names the job or the sweep that needs the data set."""
    for job in _active_jobs(store):
        if job.dataset == name and job.kind != GENERATE:  # a generate job only names what its model was trained on
            raise Conflict(
                f"data set {name} cannot be {verb}: job {job.id} ({job.status}) trains with it; wait for its end, or "
                "cancel it"
            )
    for sweep in sweeps.open():
        if sweep.spec.dataset == name:
            raise Conflict(
                f"data set {name} cannot be {verb}: the jobs of sweep {sweep.id} train with it; wait for its end, or "
                "cancel it"
            )


def _active_jobs(store: JobStore) -> Iterator[Job]:
    for status in ACTIVE:
        after, has_more = None, True
        while has_more:
            page = store.list(status, after, PAGE)
            yield from page.jobs
            after, has_more = (page.jobs[-1].id if page.jobs else None), page.has_more
