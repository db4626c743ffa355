"""The messages from a training process to its supervisor: one JSON object per line, distinguished by `kind`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.jobs.record import Event, Reason, Text
from shared.storage.classifier_files import ClassifierManifest
from shared.storage.generated_datasets import DatasetManifest
from shared.storage.model_registry import ModelManifest

StopSignal = Literal["leave", "finish"]  # write a checkpoint and exit; or export the model so far and exit


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ProgressLine(_Line):
    kind: Literal["progress"] = "progress"
    images_seen: int
    images_per_second: float
    images_total: int | None = None  # for jobs whose record does not have it
    fraction: float | None = None  # of the run, if it is not images_seen / images_total; see TrainConfig.max_minutes
    eta_seconds: float | None = None
    step_shares: dict[str, float] | None = None  # fractions of a step's time: data, forward, backward, optimizer
    device_memory_bytes: int | None = None


class MetricsLine(_Line):
    kind: Literal["metrics"] = "metrics"
    row: dict[str, float]


class EventLine(_Line):
    kind: Literal["event"] = "event"
    event: Event


class ResultLine(_Line):
    """Training has finished. The supervisor publishes the files in `folder` as a model."""

    kind: Literal["result"] = "result"
    manifest: ModelManifest
    folder: str

    def read_files(self) -> dict[str, bytes]:
        """The files of the model, by name."""
        return {path.name: path.read_bytes() for path in sorted(Path(self.folder).iterdir())}


class ClassifierLine(_Line):
    """A classifier has been trained. Its files, the manifest included, are in `folder`."""

    kind: Literal["classifier"] = "classifier"
    manifest: ClassifierManifest
    folder: str


class DatasetLine(_Line):
    """A data set has been generated. Its shards are in the artifact store; the supervisor adds the manifest."""

    kind: Literal["dataset"] = "dataset"
    manifest: DatasetManifest


class FailureLine(_Line):
    kind: Literal["failure"] = "failure"
    reason: Reason
    error: Text


TrainerLine = Annotated[
    ProgressLine | MetricsLine | EventLine | ResultLine | ClassifierLine | DatasetLine | FailureLine,
    Field(discriminator="kind"),
]

SendMessage = Callable[[TrainerLine], None]


class SendEvent(Protocol):
    """Sends an event of a run; `data` holds figures for programs, such as `nimg`."""

    def __call__(self, kind: str, message: str, **data: Any) -> None: ...


def event_sender(send: SendMessage) -> SendEvent:
    """A function that wraps events into messages and sends them."""

    def send_event(kind: str, message: str, **data: Any) -> None:
        send(EventLine(event=Event(kind=kind, message=message, data=data)))

    return send_event


_ADAPTER: TypeAdapter[TrainerLine] = TypeAdapter(TrainerLine)


def parse_line(line: str | bytes) -> TrainerLine:
    """Parses one message. Raises pydantic.ValidationError."""
    return _ADAPTER.validate_json(line)


# Exit status of a trainer that has written a checkpoint after the signal `leave` (EX_TEMPFAIL of sysexits.h).
EXIT_LEFT = 75
