"""The frozen record of a job: status, config, progress, lease. `shared.jobs.transitions` changes it."""

from __future__ import annotations

import json
import secrets
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from shared.configs.classifier import ClassifierConfig
from shared.configs.generate import GENERATE, GenerateConfig
from shared.configs.train import TrainConfig
from shared.errors import escape


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # because of its config, its data or a diverged loss
    LOST = "lost"  # because of the infrastructure; it can be resumed
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(set(JobStatus)),  # also to RUNNING: another worker claims it after the lease expires
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.LOST: frozenset({JobStatus.QUEUED}),  # on the user's request, from its checkpoint
    JobStatus.CANCELLED: frozenset(),
}
TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.LOST, JobStatus.CANCELLED})


class Reason(StrEnum):
    """Why a job did not succeed."""

    WORKER_LOST = "worker_lost"
    STALLED = "stalled"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "oom"
    DISK_FULL = "disk_full"
    ENVIRONMENT = "environment"  # its data, disk, mount or device
    TIMEOUT = "timeout"
    BAD_CONFIG = "bad_config"
    PARITY = "parity"
    ERROR = "error"
    CANCELLED_BY_USER = "cancelled_by_user"


LOST_REASONS = frozenset({Reason.WORKER_LOST, Reason.STALLED, Reason.DISK_FULL, Reason.ENVIRONMENT})

# UTF-8 text: file names that are not UTF-8 are escaped, because no JSON message could carry them.
Text = Annotated[str, BeforeValidator(lambda value: escape(value) if isinstance(value, str) else value)]

Kind = Literal["gan", "classifier", "generate"]  # what a job trains, or that it generates a data set
JobConfig = TrainConfig | ClassifierConfig | GenerateConfig
CONFIGS: dict[Kind, type[JobConfig]] = {"gan": TrainConfig, "classifier": ClassifierConfig, "generate": GenerateConfig}
RequestedAction = Literal["cancel", "pause", "finish"]  # what a user can request of a running job


class Progress(BaseModel):
    model_config = ConfigDict(frozen=True)

    fraction: float = 0.0
    images_seen: int = 0
    images_total: int = 0
    images_per_second: float | None = None
    eta_seconds: float | None = None
    step_shares: dict[str, float] | None = (
        None  # fractions of a training step's time: data, forward, backward, optimizer
    )
    device_memory_bytes: int | None = None  # peak use; null on a CPU

    @classmethod
    def at(cls, seen: int, total: int, images_per_second: float | None = None, **more: Any) -> Progress:
        """Progress after `seen` of `total` images. Values in `more` replace the estimates made here."""
        eta = max(0, total - seen) / images_per_second if images_per_second else None
        measured = {name: value for name, value in more.items() if value is not None}
        estimated = {"fraction": min(1.0, seen / total) if total else 0.0, "eta_seconds": eta}
        return cls(images_seen=seen, images_total=total, images_per_second=images_per_second, **estimated | measured)


class Event(BaseModel):
    """One entry of a job's log for the user. Within a job, ids increase with time."""

    model_config = ConfigDict(frozen=True)

    kind: str
    message: Text
    data: dict[str, Any] = Field(default_factory=dict)
    id: str = ""
    at: datetime | None = None


class SweepTrial(BaseModel):
    """The sweep, and the number of the trial in it, that a job belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    trial: int


class Job(BaseModel):
    """A job, as stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind = "gan"
    preset: str
    name: str | None
    dataset: str
    config: JobConfig
    status: JobStatus = JobStatus.QUEUED
    reason: Reason | None = None
    error: Text | None = None
    progress: Progress
    metrics: dict[str, float] = Field(default_factory=dict)  # the latest row of the series
    model_id: str | None = None
    sweep: SweepTrial | None = None

    created_at: datetime
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    attempt: int = 0  # number of claims
    crashes: int = 0  # number of attempts that ended with a lost worker or training process
    fence: int = 0  # raised by every claim; a worker with an older fence has lost the job
    lease_until: datetime | None = None
    renewed_at: datetime | None = None
    trained_s: float = 0.0  # time with a worker, over all attempts
    worker: str | None = None
    request: RequestedAction | None = None

    @field_validator("config", mode="before")
    @classmethod
    def _config_of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Reads a stored config as its job's kind says: without unknown fields, several kinds could match."""
        if isinstance(value, BaseModel) or "kind" not in info.data:
            return value
        config: type[BaseModel] = CONFIGS[info.data["kind"]]
        return config.model_validate_json(json.dumps(value), extra="ignore")

    @property
    def gan_config(self) -> TrainConfig:
        """The config, for a job that trains a GAN. Raises TypeError for any other."""
        if not isinstance(self.config, TrainConfig):
            raise TypeError(f"job {self.id} has the kind {self.kind}")
        return self.config

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_unsent(self) -> bool:
        """The job is queued, but no message for it was sent to the queue."""
        return self.status is JobStatus.QUEUED and self.enqueued_at is None


def new_job_id(now: datetime) -> str:
    """A readable id that sorts by creation time: 20261121-213455-9c4d1f7a (UTC date, time, microseconds + 3 random)."""
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.token_hex(2)[:3]}"


def new_job(now: datetime, *, preset: str, config: JobConfig, dataset: str, name: str | None) -> Job:
    kind, total = _kind_and_images(config)
    return Job(
        id=new_job_id(now), kind=kind, preset=preset, name=name, dataset=dataset, config=config,
        progress=Progress.at(0, total), created_at=now,
    )  # fmt: skip


def _kind_and_images(config: JobConfig) -> tuple[Kind, int]:
    """The kind of a job with this config, and its budget in images."""
    match config:
        case TrainConfig():
            return "gan", config.total_nimg
        case GenerateConfig():
            return GENERATE, config.n
        case ClassifierConfig():
            return "classifier", 0  # its budget is in epochs; only its trainer knows how many images an epoch has
