"""How a job may change: pure functions from one record to the next.

Time is always passed in, and it is the store's: workers' clocks may be wrong. Every change by a worker carries the
fence it got when it claimed the job; a stale one raises StaleFence.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from shared.errors import IllegalTransition, StaleFence
from shared.jobs.record import (
    TERMINAL,
    TRANSITIONS,
    Job,
    JobStatus,
    Progress,
    Reason,
    RequestedAction,
)


def enqueued(job: Job, now: datetime) -> Job:
    """A message for the job has been sent. By now a worker may have it already, which is as well."""
    return job.model_copy(update={"enqueued_at": now}) if job.status is JobStatus.QUEUED else job


def claim(job: Job, now: datetime, *, worker: str, lease_s: float) -> Job:
    """Gives the job to a worker: a queued one, or one whose last worker let its lease run out.

    Raises IllegalTransition otherwise, so a message that is delivered twice does nothing the second time.
    """
    lease_is_live = job.status is JobStatus.RUNNING and not is_lease_expired(job, now)
    if lease_is_live:
        raise IllegalTransition(f"job {job.id} is running on {job.worker}")
    return _move(
        job, JobStatus.RUNNING, worker=worker, fence=job.fence + 1, attempt=job.attempt + 1,
        crashes=job.crashes + (job.status is JobStatus.RUNNING), started_at=job.started_at or now,
        lease_until=now + timedelta(seconds=lease_s), renewed_at=now,
    )  # fmt: skip


def is_lease_expired(job: Job, now: datetime) -> bool:
    return job.status is JobStatus.RUNNING and job.lease_until is not None and job.lease_until <= now


def renew(
    job: Job, now: datetime, *, fence: int, lease_s: float,
    progress: Progress | None = None, metrics: dict[str, float] | None = None,
) -> Job:  # fmt: skip
    """The worker is alive: moves the lease on, and takes what the trainer said since."""
    _check_fence(job, fence)
    since_s = (now - job.renewed_at).total_seconds() if job.renewed_at else 0.0
    return job.model_copy(
        update={
            "lease_until": now + timedelta(seconds=lease_s),
            "renewed_at": now,
            "trained_s": job.trained_s + max(0.0, since_s),
            "progress": progress or job.progress,
            "metrics": metrics or job.metrics,
        }
    )


def finish(
    job: Job, now: datetime, *, fence: int, status: JobStatus,
    reason: Reason | None = None, error: str | None = None, model_id: str | None = None,
) -> Job:  # fmt: skip
    """The worker is done with the job, for better or worse: `status` is a terminal one."""
    _check_fence(job, fence)
    if status not in TERMINAL:
        raise IllegalTransition(f"job {job.id} cannot be finished as {status}")
    return _end(job, now, status, reason=reason, error=error, model_id=model_id)


def release(job: Job, now: datetime, *, fence: int, status: JobStatus, crashed: bool = False) -> Job:
    """The worker leaves and somebody may go on later: back to QUEUED, or PAUSED when the user asked for that.

    A cancel that came while the worker was leaving is honoured here; nobody else would.
    """
    _check_fence(job, fence)
    crashes = job.crashes + crashed
    if status not in (JobStatus.QUEUED, JobStatus.PAUSED):
        raise IllegalTransition(f"job {job.id} cannot be handed back as {status}")
    if job.request == "cancel":
        return _end(job, now, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER, crashes=crashes)
    request = None if status is JobStatus.PAUSED else job.request
    return _move(job, status, lease_until=None, worker=None, request=request, enqueued_at=None, crashes=crashes)


def expire(job: Job, now: datetime, *, max_attempts: int) -> Job:
    """What the reaper does with a job whose worker fell silent: queue it again, or give it up."""
    if not is_lease_expired(job, now):
        return job
    crashes = job.crashes + 1
    if job.request == "cancel":
        return _end(job, now, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER, crashes=crashes)
    if crashes >= max_attempts:
        error = f"its worker vanished {crashes} times; the last one was {job.worker}"
        return _end(job, now, JobStatus.LOST, reason=Reason.WORKER_LOST, error=error, crashes=crashes)
    return _move(job, JobStatus.QUEUED, lease_until=None, worker=None, enqueued_at=None, crashes=crashes)


def resume(job: Job, now: datetime) -> Job:
    """Puts a paused or lost job back in the queue; one that waits, runs or was only asked to pause just goes on."""
    if job.status is JobStatus.PAUSED:
        return _move(job, JobStatus.QUEUED, enqueued_at=None)
    if job.status is JobStatus.LOST:
        fresh = {"reason": None, "error": None, "finished_at": None, "crashes": 0, "enqueued_at": None}
        return _move(job, JobStatus.QUEUED, **fresh)
    if job.is_over:
        raise IllegalTransition(f"job {job.id} is {job.status} and cannot be resumed")
    return job.model_copy(update={"request": None}) if job.request == "pause" else job


def request_action(job: Job, now: datetime, *, request: RequestedAction) -> Job:
    """A user's wish. Idempotent; on a job that is over it changes nothing.

    A queued or paused job obeys at once; a running one when its worker next renews its lease. A cancel stands.
    """
    if job.is_over:
        return job
    if job.status is JobStatus.RUNNING:
        return job if job.request == "cancel" else job.model_copy(update={"request": request})
    return _ASK_IDLE[request](job, now)


def _cancel_idle(job: Job, now: datetime) -> Job:
    return _end(job, now, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)


def _pause_idle(job: Job, now: datetime) -> Job:
    return job if job.status is JobStatus.PAUSED else _move(job, JobStatus.PAUSED, request=None)


def _finish_idle(job: Job, now: datetime) -> Job:
    """A worker has to export what was trained, so the job waits for one; nothing trained, nothing to keep."""
    if job.attempt == 0:
        raise IllegalTransition(f"job {job.id} is {job.status} and was never trained: there is no model to keep")
    if job.status is JobStatus.PAUSED:
        return _move(job, JobStatus.QUEUED, request="finish", enqueued_at=None)
    return job.model_copy(update={"request": "finish"})


_ASK_IDLE = {"cancel": _cancel_idle, "pause": _pause_idle, "finish": _finish_idle}


def _move(job: Job, status: JobStatus, **changes: Any) -> Job:
    if status not in TRANSITIONS[job.status]:
        raise IllegalTransition(f"job {job.id} is {job.status} and cannot become {status}")
    return job.model_copy(update={"status": status, **changes})


def _end(job: Job, now: datetime, status: JobStatus, **changes: Any) -> Job:
    return _move(job, status, finished_at=now, lease_until=None, worker=None, request=None, **changes)


def _check_fence(job: Job, fence: int) -> None:
    if job.fence != fence or job.status is not JobStatus.RUNNING:
        raise StaleFence(f"job {job.id} is {job.status} under fence {job.fence}; the writer holds fence {fence}")
