"""Lists jobs of one or several statuses, page by page."""

from __future__ import annotations

from collections.abc import Sequence

from shared.jobs.record import JobStatus
from shared.jobs.store import JobStore, Page


def list_by_status(statuses: Sequence[JobStatus], after: str | None, limit: int, store: JobStore) -> Page:
    """One page of the jobs with any of the statuses, newest first; no status means all jobs."""
    if len(set(statuses)) < 2:
        return store.list(statuses[0] if statuses else None, after, limit)
    pages = [store.list(status, after, limit) for status in set(statuses)]
    # A job that changes its status between two reads may be on two pages; the dictionary keeps it once.
    jobs = {job.id: job for page in pages for job in page.jobs}
    newest = [jobs[job_id] for job_id in sorted(jobs, reverse=True)]  # ids sort by time
    return Page(newest[:limit], has_more=len(newest) > limit or any(page.has_more for page in pages))
