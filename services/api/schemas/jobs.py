"""Requests and responses of /jobs and /compare."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from services.api.schemas.partial_schema import partial_schema
from services.api.schemas.request import RequestModel
from shared.configs.classifier import CLASSIFIER, ClassifierConfig
from shared.configs.generate import GENERATE
from shared.configs.presets import PRESETS
from shared.configs.train import TrainConfig
from shared.jobs.record import Event, Job, JobConfig, JobStatus, Kind, Progress, Reason, SweepTrial

MAX_COMPARED = 20
EVENT_ID = r"^[0-9]{1,19}-[0-9]{1,19}$"  # two numbers of 64 bits, as in ids of Redis streams


class JobRequest(RequestModel):
    """Body of POST /jobs."""

    preset: Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={"enum": [*PRESETS, CLASSIFIER]})]
    overrides: dict[str, Any] = Field(
        default_factory=dict, max_length=100, description="Fields of the preset's config to change.",
        json_schema_extra=lambda schema: schema.update(partial_schema(TrainConfig, ClassifierConfig)),
    )  # fmt: skip
    dataset: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
            description="`cifar10`, or the name of a folder in KILN_DATASETS. Default with `from_checkpoint`: that "
            "job's data set.",
        ),
    ] = "cifar10"
    name: Annotated[
        str | None, Field(max_length=200, description="A label of your choice. It does not affect training.")
    ] = None


def _split_commas(texts: Any) -> Any:
    """`["failed,lost"]` -> `["failed", "lost"]`"""
    return [part.strip() for text in texts for part in text.split(",")] if isinstance(texts, list) else texts


class JobListQuery(RequestModel):
    """Query of GET /jobs."""

    status: Annotated[
        tuple[JobStatus, ...],
        BeforeValidator(_split_commas),
        Field(description="One status, or several: repeat the parameter or separate them by commas. Default: all."),
    ] = ()
    after: Annotated[str | None, Field(max_length=100, description="Id of the last job of the previous page.")] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class MetricsQuery(RequestModel):
    """Query of GET /jobs/{id}/metrics."""

    after: Annotated[int, Field(ge=-1, le=10**12, description="Return only rows with more images seen than this.")] = -1


class EventsQuery(RequestModel):
    """Query of GET /jobs/{id}/events."""

    after: Annotated[str | None, Field(pattern=EVENT_ID, description="Return only events after this id.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class LossesQuery(RequestModel):
    """Query of GET /jobs/{id}/losses.png."""

    images_per_epoch: Annotated[
        int | None,
        Field(ge=1, le=10**9, description="Images per epoch, for the axis of epochs. Default: 50,000 for CIFAR-10."),
    ] = None


class StripQuery(RequestModel):
    """Query of GET /jobs/{id}/samples.png."""

    count: Annotated[int, Field(ge=1, le=20, description="Number of grids, evenly spread over the training.")] = 3
    epochs: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9]{1,6}(,[0-9]{1,6}){0,19}$",
            description="Epochs, separated by commas: `10,50,100`. The nearest grids are shown.",
        ),
    ] = None
    images_per_epoch: Annotated[
        int, Field(ge=1, le=10**9, description="Images per epoch. Default: 50,000, as in CIFAR-10.")
    ] = 50_000

    @property
    def wanted_nimg(self) -> list[int] | None:
        """The requested epochs, counted in images."""
        return None if self.epochs is None else [int(e) * self.images_per_epoch for e in self.epochs.split(",")]


class CompareQuery(LossesQuery):
    """Query of GET /compare."""

    jobs: Annotated[str, Field(min_length=1, max_length=2000, description="Ids of up to 20 jobs, separated by commas.")]

    @field_validator("jobs")
    @classmethod
    def _check_count(cls, jobs: str) -> str:
        if not 1 <= len(cls._split(jobs)) <= MAX_COMPARED:
            raise ValueError(f"name 1 to {MAX_COMPARED} jobs, separated by commas")
        return jobs

    @property
    def job_ids(self) -> list[str]:
        return self._split(self.jobs)

    @staticmethod
    def _split(jobs: str) -> list[str]:
        return list(dict.fromkeys(part.strip() for part in jobs.split(",") if part.strip()))


class JobView(BaseModel):
    """A job as the API shows it."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    kind: Kind
    preset: str
    name: str | None
    dataset: str
    status: JobStatus
    reason: Reason | None
    error: str | None
    attempt: int
    progress: Progress
    metrics: dict[str, float]
    config: JobConfig
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    trained_s: float  # seconds on workers, summed over all attempts
    model_id: str | None
    sweep: SweepTrial | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job) -> JobView:
        parts = {"metrics": "metrics", "events": "events", "samples": "samples", "losses": "losses.png"}
        if job.kind == GENERATE:
            parts = {"events": "events", "dataset": "dataset", "download": "dataset/download"}
        links = {"self": f"/jobs/{job.id}"} | {name: f"/jobs/{job.id}/{path}" for name, path in parts.items()}
        if not job.is_over:
            links |= {"cancel": f"/jobs/{job.id}/cancel"}
        if job.sweep:
            links |= {"sweep": f"/sweeps/{job.sweep.id}"}
        if job.model_id:
            links |= {"model": f"/models/{job.model_id}", "generate": f"/generate?model={job.model_id}"}
        return cls(**{name: getattr(job, name) for name in cls.model_fields if name != "links"}, links=links)


class JobList(BaseModel):
    """One page of jobs."""

    data: list[JobView]
    has_more: bool


class MetricsSeries(BaseModel):
    """A job's metrics, one row per tick."""

    data: list[dict[str, float]]


class EventList(BaseModel):
    """One page of a job's events."""

    data: list[Event]
    has_more: bool


class Sample(BaseModel):
    """A sample grid, and the number of images that the job had seen when it made the grid."""

    nimg: int
    url: str


class SampleList(BaseModel):
    """A job's sample grids, oldest first."""

    data: list[Sample]


class Comparison(BaseModel):
    """Jobs side by side, one row per job."""

    data: list[dict[str, Any]]


class ResolvedJob(BaseModel):
    """Response of a dry run: the config that the job would have."""

    preset: str
    dataset: str
    config: JobConfig
