"""What a job is and how it may change: frozen records and pure functions from one record to the next.

Time is always passed in, and it is the store's: workers' clocks may be wrong. Every change by a worker carries the
fence it got when it claimed the job; a stale one raises StaleFence.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.configs.classifier import ClassifierConfig
from shared.configs.presets import TrainConfig
from shared.errors import IllegalTransition, StaleFence


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the job's own fault: its config, its data, a diverged loss
    LOST = "lost"  # the infrastructure's; it can be resumed
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(set(JobStatus)),  # also to RUNNING: claimed again after its lease ran out
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.LOST: frozenset({JobStatus.QUEUED}),  # when the user says so; its checkpoint is there
    JobStatus.CANCELLED: frozenset(),
}
TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.LOST, JobStatus.CANCELLED})


class Reason(StrEnum):
    """Why a job ended otherwise than by success."""

    WORKER_LOST = "worker_lost"
    STALLED = "stalled"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "oom"
    DISK_FULL = "disk_full"
    TIMEOUT = "timeout"
    BAD_CONFIG = "bad_config"
    PARITY = "parity"
    ERROR = "error"
    CANCELLED_BY_USER = "cancelled_by_user"


LOST_REASONS = frozenset({Reason.WORKER_LOST, Reason.STALLED, Reason.DISK_FULL})

Kind = Literal["gan", "classifier"]  # what a job trains
Request = Literal["cancel", "pause", "finish"]  # what a user asks of a running job


class Progress(BaseModel):
    model_config = ConfigDict(frozen=True)

    fraction: float = 0.0
    images_seen: int = 0
    images_total: int = 0
    images_per_second: float | None = None
    eta_seconds: float | None = None
    step_shares: dict[str, float] | None = None  # of a training step's time: data, forward, backward, optimizer
    device_memory_bytes: int | None = None  # the most that training had in use; null on a CPU

    @classmethod
    def at(cls, seen: int, total: int, images_per_second: float | None = None, **more: Any) -> Progress:
        """After so many images. What the trainer knows better is given in `more`."""
        eta = max(0, total - seen) / images_per_second if images_per_second else None
        known = {name: value for name, value in more.items() if value is not None}
        guessed = {"fraction": min(1.0, seen / total) if total else 0.0, "eta_seconds": eta}
        return cls(images_seen=seen, images_total=total, images_per_second=images_per_second, **guessed | known)


class Event(BaseModel):
    """Something worth telling the user about a job. `id` grows with time within a job."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)
    id: str = ""
    at: datetime | None = None


class SweepTrial(BaseModel):
    """Which trial of which sweep a job is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    trial: int


class Job(BaseModel):
    """One training job, as stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind = "gan"
    preset: str
    name: str | None
    dataset: str
    config: TrainConfig | ClassifierConfig
    status: JobStatus = JobStatus.QUEUED
    reason: Reason | None = None
    error: str | None = None
    progress: Progress
    metrics: dict[str, float] = Field(default_factory=dict)  # the latest row of the series
    model_id: str | None = None
    sweep: SweepTrial | None = None

    created_at: datetime
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    attempt: int = 0  # times it was claimed
    crashes: int = 0  # times its worker or trainer vanished
    fence: int = 0  # raised by every claim; who carries an older one has lost the job
    lease_until: datetime | None = None
    renewed_at: datetime | None = None
    trained_s: float = 0.0  # in the hands of workers, over all attempts
    worker: str | None = None
    request: Request | None = None

    @property
    def gan_config(self) -> TrainConfig:
        """The config of a job that trains a GAN. Raises TypeError for one that does not."""
        if not isinstance(self.config, TrainConfig):
            raise TypeError(f"job {self.id} trains a {self.kind}")
        return self.config

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_unsent(self) -> bool:
        """It waits for a worker, and no message tells of it."""
        return self.status is JobStatus.QUEUED and self.enqueued_at is None


def new_job_id(now: datetime) -> str:
    """Sorts by time of creation and is readable: 20261121-213455-9c4d1f7a (date, time, microseconds + chance, UTC)."""
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.token_hex(2)[:3]}"


def new_job(
    now: datetime, *, preset: str, config: TrainConfig | ClassifierConfig, dataset: str, name: str | None
) -> Job:
    # A classifier's budget is in epochs, and how long one is, only its trainer knows.
    kind, total = ("gan", config.total_nimg) if isinstance(config, TrainConfig) else ("classifier", 0)
    return Job(
        id=new_job_id(now), kind=kind, preset=preset, name=name, dataset=dataset, config=config,
        progress=Progress.at(0, total), created_at=now,
    )  # fmt: skip


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


def hand_back(job: Job, now: datetime, *, fence: int, status: JobStatus, crashed: bool = False) -> Job:
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


def ask(job: Job, now: datetime, *, request: Request) -> Job:
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
