"""The changes that a job can go through, as pure functions from one record to the next.

`now` is the store's time, because the clocks of workers may be wrong. A worker passes the fence that it got when it
claimed the job; an older fence raises StaleFence.
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
    """A message for the job was sent. If a worker has claimed the job since, nothing changes."""
    return job.model_copy(update={"enqueued_at": now}) if job.status is JobStatus.QUEUED else job


def claim(job: Job, now: datetime, *, worker: str, lease_s: float) -> Job:
    """Gives the job to a worker, if it is queued or the lease of its last worker has expired.

    Raises IllegalTransition otherwise; a message that is delivered twice therefore has no effect the second time.
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
    """Extends the worker's lease, and stores the trainer's latest progress and metrics."""
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
    """The worker ends the job with a terminal `status`."""
    _check_fence(job, fence)
    if status not in TERMINAL:
        raise IllegalTransition(f"job {job.id} cannot be finished as {status}")
    return _end(job, now, status, reason=reason, error=error, model_id=model_id)


def release(job: Job, now: datetime, *, fence: int, status: JobStatus, crashed: bool = False) -> Job:
    """The worker gives the job back: to QUEUED, or to PAUSED if the user requested a pause.

    If the user has cancelled the job in the meantime, it ends as CANCELLED.
    """
    _check_fence(job, fence)
    crashes = job.crashes + crashed
    if status not in (JobStatus.QUEUED, JobStatus.PAUSED):
        raise IllegalTransition(f"job {job.id} cannot be released as {status}")
    if job.request == "cancel":
        return _end(job, now, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER, crashes=crashes)
    request = None if status is JobStatus.PAUSED else job.request
    return _move(job, status, lease_until=None, worker=None, request=request, enqueued_at=None, crashes=crashes)


def expire(job: Job, now: datetime, *, max_attempts: int) -> Job:
    """If the job's lease has expired, queues it again, or ends it after `max_attempts` lost workers."""
    if not is_lease_expired(job, now):
        return job
    crashes = job.crashes + 1
    if job.request == "cancel":
        return _end(job, now, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER, crashes=crashes)
    if crashes >= max_attempts:
        error = f"the job lost its worker {crashes} times; the last worker was {job.worker}"
        return _end(job, now, JobStatus.LOST, reason=Reason.WORKER_LOST, error=error, crashes=crashes)
    return _move(job, JobStatus.QUEUED, lease_until=None, worker=None, enqueued_at=None, crashes=crashes)


def resume(job: Job, now: datetime) -> Job:
    """Queues a paused or lost job again. A queued or running job continues; a pending pause request is withdrawn."""
    if job.status is JobStatus.PAUSED:
        return _move(job, JobStatus.QUEUED, enqueued_at=None)
    if job.status is JobStatus.LOST:
        fresh = {"reason": None, "error": None, "finished_at": None, "crashes": 0, "enqueued_at": None}
        return _move(job, JobStatus.QUEUED, **fresh)
    if job.is_over:
        raise IllegalTransition(f"job {job.id} is {job.status} and cannot be resumed")
    return job.model_copy(update={"request": None}) if job.request == "pause" else job


def request_action(job: Job, now: datetime, *, request: RequestedAction) -> Job:
    """Records a user's request. Idempotent; it does not change a job that is over.

    A queued or paused job changes at once, a running one when its worker next renews its lease. No later request
    replaces a cancel.
    """
    if job.is_over:
        return job
    if job.status is JobStatus.RUNNING:
        return job if job.request == "cancel" else job.model_copy(update={"request": request})
    return _REQUEST_IDLE[request](job, now)


def require_over(job: Job) -> None:
    """Raises IllegalTransition for a job that cannot be deleted, because it still waits, trains or is paused."""
    if not job.is_over:
        raise IllegalTransition(f"job {job.id} is {job.status}; cancel it before you delete it")


def _cancel_idle(job: Job, now: datetime) -> Job:
    return _end(job, now, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)


def _pause_idle(job: Job, now: datetime) -> Job:
    return job if job.status is JobStatus.PAUSED else _move(job, JobStatus.PAUSED, request=None)


def _finish_idle(job: Job, now: datetime) -> Job:
    """Queues the job for a worker, which exports the model so far. Raises IllegalTransition if nothing was trained."""
    if job.attempt == 0:
        raise IllegalTransition(
            f"job {job.id} is {job.status} and was never trained, so it has no model to keep; cancel it instead"
        )
    if job.status is JobStatus.PAUSED:
        return _move(job, JobStatus.QUEUED, request="finish", enqueued_at=None)
    return job.model_copy(update={"request": "finish"})


_REQUEST_IDLE = {"cancel": _cancel_idle, "pause": _pause_idle, "finish": _finish_idle}


def _move(job: Job, status: JobStatus, **changes: Any) -> Job:
    if status not in TRANSITIONS[job.status]:
        raise IllegalTransition(f"job {job.id} is {job.status} and cannot become {status}")
    return job.model_copy(update={"status": status, **changes})


def _end(job: Job, now: datetime, status: JobStatus, **changes: Any) -> Job:
    return _move(job, status, finished_at=now, lease_until=None, worker=None, request=None, **changes)


def _check_fence(job: Job, fence: int) -> None:
    if job.fence != fence or job.status is not JobStatus.RUNNING:
        raise StaleFence(f"job {job.id} is {job.status} under fence {job.fence}; the writer holds fence {fence}")
