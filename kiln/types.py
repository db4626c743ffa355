"""The responses of the API as typed objects: jobs, events, models, sweeps.

A newer server may send fields and statuses that this version does not know: unknown fields are kept as they are, and
statuses are strings. A field that an older server lacks has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class JobStatus(StrEnum):
    """The statuses that this version knows. `JobData.status` is a string and may be another one."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the request is at fault: its config, its data, a diverged loss
    LOST = "lost"  # the environment is at fault: the job can be resumed
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.LOST, JobStatus.CANCELLED})


class _Data(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Progress(_Data):
    fraction: float = 0.0  # of the image budget, 0 to 1
    images_seen: int = 0
    images_total: int = 0
    images_per_second: float | None = None
    eta_seconds: float | None = None
    step_shares: dict[str, float] | None = None  # of a training step's time: data, forward, backward, optimizer
    device_memory_bytes: int | None = None  # peak during training; null on a CPU


class Event(_Data):
    """One entry in a job's log of events. `id` grows with time within a job."""

    kind: str = ""
    message: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    id: str = ""
    at: datetime | None = None


class JobData(_Data):
    """A job, as GET /jobs/{id} returns it."""

    id: str
    kind: str = "gan"
    preset: str
    name: str | None = None
    dataset: str
    status: str
    reason: str | None = None
    error: str | None = None
    attempt: int = 0
    progress: Progress = Field(default_factory=Progress)
    metrics: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    trained_s: float = 0.0  # on workers, summed over all attempts
    model_id: str | None = None
    links: dict[str, str] = Field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the job has ended. A status that this version does not know is over once `finished_at` is set."""
        return self.status in TERMINAL or (self.status not in set(JobStatus) and self.finished_at is not None)


class JobPage(_Data):
    data: list[JobData]
    has_more: bool


class ModelData(_Data):
    """A model, as GET /models/{id} returns it: its manifest and its aliases. `refused` says why it is not served."""

    manifest: dict[str, Any]
    aliases: list[str] = Field(default_factory=list)
    refused: str | None = None
    provider: str | None = None  # onnxruntime's execution provider, while the model is in memory
    memory_bytes: int | None = None

    @property
    def id(self) -> str:
        return str(self.manifest["id"])

    @property
    def metrics(self) -> Mapping[str, Any]:
        """FID, KID and the other figures of its evaluation; empty if it was not evaluated."""
        return self.manifest.get("metrics") or {}


class DatasetData(_Data):
    """A data set, as GET /datasets/{name} returns it; GET /datasets leaves `report` out."""

    name: str
    display_name: str
    source: str  # pushed, or folder
    classes: tuple[str, ...] = ()
    images: int | None = None  # of all splits; None if the folder cannot be used
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)  # by split and class
    digest: str | None = None
    size_bytes: int | None = None
    pushed_at: datetime | None = None
    problem: str | None = None  # why the folder cannot be used
    links: dict[str, str] = Field(default_factory=dict)
    report: dict[str, Any] | None = None  # resolutions, channels, damaged and ignored files, warnings


class VerificationData(_Data):
    """Whether the server reproduces a PNG; `reason` says why not."""

    reproduced: bool  # the very same file
    same_pixels: bool
    reason: str | None = None
    provenance: dict[str, Any] | None = None  # model, class, seed and index, read from the file


class TrialData(_Data):
    """One trial of a sweep: its parameter values, its job and its result."""

    number: int
    params: dict[str, Any]
    job_id: str | None = None
    state: str  # running, complete, pruned or failed
    value: float | None = None
    model_id: str | None = None
    error: str | None = None


class SweepData(_Data):
    """A sweep, as GET /sweeps/{id} returns it; GET /sweeps leaves `trials` out."""

    id: str
    name: str | None = None
    preset: str
    dataset: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, dict[str, Any]]
    objective: dict[str, Any]
    n_trials: int
    status: str  # running, succeeded, failed or cancelled
    error: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)  # trials by state
    best: TrialData | None = None
    trials: tuple[TrialData, ...] = ()
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether the sweep has ended; see `JobData.is_over` for unknown statuses."""
        ended = ("succeeded", "failed", "cancelled")
        return self.status in ended or (self.status != "running" and self.finished_at is not None)
