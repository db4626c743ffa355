"""What a training process tells its supervisor: one JSON object per line, told apart by `kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.jobs.record import Event, Reason
from shared.storage.classifier_files import ClassifierManifest
from shared.storage.model_registry import ModelManifest

StopSignal = Literal["leave", "finish"]  # what it is told: checkpoint, somebody goes on later; keep the model so far


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProgressLine(_Line):
    kind: Literal["progress"] = "progress"
    images_seen: int
    images_per_second: float
    images_total: int | None = None  # where the job's record does not have it
    fraction: float | None = None  # of the run, where that is not the share of images; see TrainConfig.max_minutes
    eta_seconds: float | None = None
    step_shares: dict[str, float] | None = None  # of a step's time: data, forward, backward, optimizer
    device_memory_bytes: int | None = None


class MetricsLine(_Line):
    kind: Literal["metrics"] = "metrics"
    row: dict[str, float]


class EventLine(_Line):
    kind: Literal["event"] = "event"
    event: Event


class ResultLine(_Line):
    """Training is done. The files of the model lie in `folder`; publishing them is the receiver's business."""

    kind: Literal["result"] = "result"
    manifest: ModelManifest
    folder: str

    def read_files(self) -> dict[str, bytes]:
        """What is to be published with the manifest, by name."""
        return {path.name: path.read_bytes() for path in sorted(Path(self.folder).iterdir())}


class ClassifierLine(_Line):
    """A classifier is trained. Its files lie in `folder`, its manifest among them."""

    kind: Literal["classifier"] = "classifier"
    manifest: ClassifierManifest
    folder: str


class FailureLine(_Line):
    kind: Literal["failure"] = "failure"
    reason: Reason
    error: str


TrainerLine = Annotated[
    ProgressLine | MetricsLine | EventLine | ResultLine | ClassifierLine | FailureLine, Field(discriminator="kind")
]

_ADAPTER: TypeAdapter[TrainerLine] = TypeAdapter(TrainerLine)


def parse_line(line: str | bytes) -> TrainerLine:
    """Raises pydantic.ValidationError on anything that is not one of the above."""
    return _ADAPTER.validate_json(line)


# A trainer that was told to leave, and left a checkpoint, ends with this status (EX_TEMPFAIL of sysexits.h).
EXIT_LEFT = 75
