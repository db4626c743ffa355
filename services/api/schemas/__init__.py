"""What goes over the wire: requests as the API accepts them, answers as it gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from services.api.images.class_sampling import MAX_DRAWS
from services.api.inference.latents import MAX_SEED
from shared.configs.classifier import CLASSIFIER, ClassifierConfig
from shared.configs.presets import PRESETS, Preset, TrainConfig
from shared.jobs.record import Event, Job, JobStatus, Kind, Progress, Reason, SweepTrial
from shared.storage.model_registry import ModelManifest

MAX_IMAGES = 1024
MAX_STEPS = 256
MAX_COMPARED = 20
EVENT_ID = r"^[0-9]{1,19}-[0-9]{1,19}$"  # Redis counts in 64 bits, which is twenty digits at most


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _partial(*models: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of an object with some of one model's fields."""
    schemas = [_some_fields(model.model_json_schema()) for model in models]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _some_fields(schema: dict[str, Any]) -> dict[str, Any]:
    properties = _inlined(schema["properties"], schema.get("$defs", {}))
    return {"properties": properties, "additionalProperties": False}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """The schema with each `$ref` replaced by what it points at, which lies outside of where it is put."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {name: _inlined(value, definitions) for name, value in node.items()}
    return [_inlined(item, definitions) for item in node] if isinstance(node, list) else node


class JobRequest(_Request):
    """Body of POST /jobs."""

    preset: Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={"enum": [*PRESETS, CLASSIFIER]})]
    overrides: dict[str, Any] = Field(
        default_factory=dict, max_length=100, description="Fields of the preset's config to change.",
        json_schema_extra=lambda schema: schema.update(_partial(TrainConfig, ClassifierConfig)),
    )  # fmt: skip
    dataset: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="`cifar10`, or a folder below KILN_DATASETS."),
    ] = "cifar10"
    name: Annotated[str | None, Field(max_length=200, description="Anything that helps you remember.")] = None


class AliasRequest(_Request):
    """Body of PUT /aliases/{alias}."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_id: Annotated[str, Field(min_length=1, max_length=200)]


class JobListQuery(_Request):
    status: JobStatus | None = None
    after: Annotated[str | None, Field(max_length=100, description="Id of the last job of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class MetricsQuery(_Request):
    after: Annotated[int, Field(ge=-1, le=10**12, description="Only rows after so many images.")] = -1


class EventsQuery(_Request):
    after: Annotated[str | None, Field(pattern=EVENT_ID, description="Only events after that id.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class LossesQuery(_Request):
    images_per_epoch: Annotated[
        int | None, Field(ge=1, le=10**9, description="How long an epoch is; known for CIFAR-10.")
    ] = None


class StripQuery(_Request):
    count: Annotated[int, Field(ge=1, le=20, description="How many grids, evenly spread.")] = 3
    epochs: Annotated[
        str | None,
        Field(pattern=r"^[0-9]{1,6}(,[0-9]{1,6}){0,19}$", description="The grids nearest to these: `10,50,100`."),
    ] = None
    images_per_epoch: Annotated[int, Field(ge=1, le=10**9, description="The default is CIFAR-10's.")] = 50_000

    @property
    def wanted_nimg(self) -> list[int] | None:
        return None if self.epochs is None else [int(e) * self.images_per_epoch for e in self.epochs.split(",")]


class CompareQuery(LossesQuery):
    jobs: Annotated[str, Field(min_length=1, max_length=2000, description="Ids of up to 20 jobs, with commas.")]

    @field_validator("jobs")
    @classmethod
    def _are_few(cls, jobs: str) -> str:
        if not 1 <= len(cls._split(jobs)) <= MAX_COMPARED:
            raise ValueError(f"1 to {MAX_COMPARED} jobs can be compared")
        return jobs

    @property
    def job_ids(self) -> list[str]:
        return self._split(self.jobs)

    @staticmethod
    def _split(jobs: str) -> list[str]:
        return list(dict.fromkeys(part.strip() for part in jobs.split(",") if part.strip()))


class _Generate(_Request):
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="How many images, of each class.")] = 16
    model: Annotated[str | None, Field(min_length=1, max_length=200, description="Id or alias.")] = None
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED, description="Drawn and reported if absent.")] = None
    first_index: Annotated[
        int, Field(ge=0, le=MAX_SEED, description="Images are counted per seed and class; the number of the first.")
    ] = 0
    truncation: Annotated[float | None, Field(ge=0.05, le=10, allow_inf_nan=False)] = None
    threshold: Annotated[
        float | None,
        Field(gt=0, le=1, allow_inf_nan=False,
              description="Of a class of an unconditional model: how sure the classifier has to be. Default: 0.5."),
    ] = None  # fmt: skip
    max_draws: Annotated[
        int | None,
        Field(ge=1, le=MAX_DRAWS, description="And how many images it may look at. Default: 100 n, but at least 1000."),
    ] = None
    format: Annotated[
        Literal["png", "zip", "json", "npy"],
        Field(description="One sheet; or a PNG each and a list, zipped; the same as JSON with base64; [N, H, W, 3]."),
    ] = "png"
    compress: Annotated[Literal["none", "fast", "small"], Field(description="How PNGs are deflated.")] = "none"
    columns: Annotated[
        int | None,
        Field(ge=1, le=MAX_IMAGES, description="Default: ceil(sqrt(n)); n for several classes."),
    ] = None
    scale: Annotated[int, Field(ge=1, le=16, description="Repeat each pixel so many times.")] = 1


class GenerateQuery(_Generate):
    """Query of GET /generate."""

    class_: Annotated[
        str | None,
        Field(alias="class", max_length=2000, description="Name or number of a class; several, with commas; or `all`."),
    ] = None


class GenerateBody(_Generate):
    """Body of POST /generate. JSON has types: true is no number, and neither is "4"."""

    model_config = ConfigDict(strict=True)

    class_: Annotated[
        str | tuple[str, ...] | None,
        Field(alias="class", description="Name or number of a class, or a list of them; or `all`."),
        WithJsonSchema({
            "anyOf": [
                {"type": "string", "maxLength": 200},
                {"type": "integer", "minimum": 0},
                {"type": "array", "minItems": 1, "maxItems": MAX_IMAGES,
                 "items": {"anyOf": [{"type": "string", "maxLength": 200}, {"type": "integer", "minimum": 0}]}},
                {"type": "null"},
            ]
        }),
    ] = None  # fmt: skip

    @field_validator("class_", mode="before")
    @classmethod
    def _names(cls, wanted: Any) -> Any:
        if isinstance(wanted, list):
            if not 1 <= len(wanted) <= MAX_IMAGES:
                raise ValueError(f"1 to {MAX_IMAGES:,} classes can be asked for")
            return tuple(cls._name(part) for part in wanted)
        return None if wanted is None else cls._name(wanted)

    @staticmethod
    def _name(wanted: Any) -> str:
        if isinstance(wanted, bool) or not isinstance(wanted, str | int) or len(str(wanted)[:201]) > 200:
            raise ValueError("a class is a name of up to 200 characters, or a number")
        return str(wanted)


class InterpolateQuery(_Request):
    """Query of GET /interpolate."""

    from_: Annotated[str | None, Field(alias="from", max_length=200, description="The class to begin with.")] = None
    to: Annotated[str | None, Field(max_length=200, description="The class to end with.")] = None
    steps: Annotated[int, Field(ge=2, le=MAX_STEPS, description="How many images, both ends included.")] = 16
    model: Annotated[str | None, Field(min_length=1, max_length=200, description="Id or alias.")] = None
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED, description="Drawn and reported if absent.")] = None
    from_index: Annotated[int, Field(ge=0, le=MAX_SEED, description="Begin with that image of the seed.")] = 0
    to_index: Annotated[
        int, Field(ge=0, le=MAX_SEED, description="End with that one; the same one, and the class alone changes.")
    ] = 1
    truncation: Annotated[float | None, Field(ge=0.05, le=10, allow_inf_nan=False)] = None
    format: Annotated[Literal["png", "apng"], Field(description="A strip, or an animated PNG.")] = "png"
    compress: Annotated[Literal["none", "fast", "small"], Field(description="How a strip is deflated.")] = "none"
    columns: Annotated[int | None, Field(ge=1, le=MAX_STEPS, description="Of a strip. Default: all in one row.")] = None
    scale: Annotated[int, Field(ge=1, le=16, description="Repeat each pixel so many times.")] = 1
    frame_ms: Annotated[int, Field(ge=10, le=10_000, description="How long an animated PNG shows each image.")] = 80


class JobView(BaseModel):
    """A job as its user sees it."""

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
    config: TrainConfig | ClassifierConfig
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    trained_s: float  # in the hands of workers, over all attempts
    model_id: str | None
    sweep: SweepTrial | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job) -> JobView:
        parts = {"metrics": "metrics", "events": "events", "samples": "samples", "losses": "losses.png"}
        links = {"self": f"/jobs/{job.id}"} | {name: f"/jobs/{job.id}/{path}" for name, path in parts.items()}
        if not job.is_over:
            links |= {"cancel": f"/jobs/{job.id}/cancel"}
        if job.sweep:
            links |= {"sweep": f"/sweeps/{job.sweep.id}"}
        if job.model_id:
            links |= {"model": f"/models/{job.model_id}", "generate": f"/generate?model={job.model_id}"}
        return cls(**{name: getattr(job, name) for name in cls.model_fields if name != "links"}, links=links)


class JobList(BaseModel):
    data: list[JobView]
    has_more: bool


class MetricsSeries(BaseModel):
    data: list[dict[str, float]]


class EventList(BaseModel):
    data: list[Event]
    has_more: bool


class Sample(BaseModel):
    nimg: int
    url: str


class SampleList(BaseModel):
    data: list[Sample]


class Comparison(BaseModel):
    data: list[dict[str, Any]]


class ResolvedJob(BaseModel):
    """Answer of a dry run: what would be trained."""

    preset: str
    dataset: str
    config: TrainConfig | ClassifierConfig


class PresetView(BaseModel):
    name: str
    summary: str
    parameters: dict[str, int]
    config: TrainConfig
    sources: dict[str, str]

    @classmethod
    def of(cls, preset: Preset) -> PresetView:
        return cls(
            name=preset.name, summary=preset.summary, parameters=dict(preset.parameters), config=preset.config,
            sources=dict(preset.sources),
        )  # fmt: skip


class PresetList(BaseModel):
    data: list[PresetView]


class ModelView(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    manifest: ModelManifest
    aliases: list[str]
    refused: str | None  # why it is not served, if it is not
    provider: str | None  # what it runs on, while it is in memory
    memory_bytes: int | None  # what it takes there, by estimate


class ModelList(BaseModel):
    data: list[ModelView]


class AliasView(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    alias: str
    model_id: str


class Verification(BaseModel):
    """Answer of POST /verify."""

    reproduced: bool = Field(description="Whether this server makes the very same file.")
    same_pixels: bool = Field(description="Whether it makes the same pixels; a file may have been written anew.")
    reason: str | None = Field(description="Why it is not reproduced, if it is not.")
    provenance: dict[str, Any] | None = Field(description="What the file says about itself.")


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready"] = "ready"
    model_id: str
    provider: str
