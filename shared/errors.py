"""The exceptions that Kiln raises on purpose. services/api/errors.py maps them to HTTP statuses.

KilnError
├── InvalidInput             unusable values; each problem names a field and its value
├── NotFound
│   ├── UnknownJob
│   ├── UnknownModel
│   ├── UnknownPreview
│   ├── UnknownSample
│   ├── UnknownPreset
│   ├── UnknownAlias
│   ├── UnknownSweep
│   ├── UnknownClassifier
│   ├── UnknownGeneratedDataset
│   ├── UnknownDataset
│   ├── UnknownDatasetPreview
│   └── UnknownNeighbours
├── Conflict                 a valid request that the present state does not allow
│   ├── IllegalTransition
│   └── NothingToPromote
├── IdempotencyMismatch      one Idempotency-Key, two different bodies
├── Unauthenticated          no API key, or an unknown one
├── Forbidden                a known API key without the required scope
├── StaleFence               a write by a worker that has lost its lease
├── Unavailable              a temporary failure; retry later
│   ├── StoreUnavailable
│   │   └── EvictingStore
│   ├── NoModelReady
│   ├── Overloaded
│   └── Draining
├── BodyTooLarge             a body above the limit of its route
├── BodyTooSlow              a body that stopped arriving
├── StorageFull              no room on the disk of the server
├── CorruptArtifact          stored bytes that do not match their digest
└── TrainingFailed           a run that cannot continue; carries a Reason
    ├── BadConfig
    │   └── BadDataset
    ├── EnvironmentFailed
    ├── Diverged
    └── ParityFailed
"""

from __future__ import annotations

import difflib
import errno
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_VALUE_CHARS = 200
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errno of an OSError: no space left, for this user or file


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One problem with one field. `field` is a dotted path, e.g. `overrides.lr`."""

    field: str
    value: Any
    message: str

    def as_json(self) -> dict[str, Any]:
        return {"field": printable(self.field), "value": printable(self.value), "message": self.message}


def printable(value: Any) -> Any:
    """The value, safe and short enough for a JSON error: NaN and infinities become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | float):
        return value
    # Python refuses to print integers of more than 4300 digits.
    if isinstance(value, int):
        return value if abs(value) < 10**18 else f"an integer of {value.bit_length()} bits"
    text = value if isinstance(value, str) else _repr(value)
    text = escape(text)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def escape(text: str) -> str:
    """The text with bytes that are not UTF-8 as `\\xNN`, so that JSON can carry it. Python decodes such file names to
    lone surrogates, which UTF-8 cannot encode.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # contains an integer too long to print, or is nested too deeply
        return f"a {type(value).__name__} that cannot be printed"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: `"; did you mean 'tiny'?"`, or `""` if no known name is similar."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class KilnError(Exception):
    """Any error that Kiln raises on purpose."""


class InvalidInput(KilnError):
    """The caller sent unusable values; `problems` names each field and its value."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        messages = (f"{printable(p.field)}: {p.message} (got {printable(p.value)!r})" for p in self.problems)
        super().__init__("; ".join(messages))

    @classmethod
    def of(cls, field: str, value: Any, message: str) -> InvalidInput:
        return cls([FieldProblem(field, value, message)])


class NotFound(KilnError):
    """No record or file has this name."""

    kind = "thing"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no {self.kind} {printable(name)!r}")


class UnknownJob(NotFound):
    kind = "job"


class UnknownModel(NotFound):
    kind = "model"


class UnknownPreview(NotFound):
    kind = "preview of model"


class UnknownSample(NotFound):
    kind = "sample grid"


class UnknownPreset(NotFound):
    kind = "preset"


class UnknownAlias(NotFound):
    kind = "alias"


class UnknownSweep(NotFound):
    kind = "sweep"


class UnknownClassifier(NotFound):
    kind = "classifier in"


class UnknownGeneratedDataset(NotFound):
    kind = "complete data set of job"


class UnknownDataset(NotFound):
    """No folder and no pushed data set has this name."""

    kind = "data set"

    def __init__(self, name: str, existing: Iterable[str] = ()) -> None:
        super().__init__(name)
        if names := sorted(existing):
            self.args = (f"{self.args[0]}; the data sets are {', '.join(names)}",)


class UnknownDatasetPreview(NotFound):
    kind = "preview of data set"


class UnknownNeighbours(NotFound):
    kind = "picture of nearest neighbours of model"


class Conflict(KilnError):
    """The request is valid, but the present state does not allow it."""


class IllegalTransition(Conflict):
    """A job cannot go from its status to the requested one."""


class NothingToPromote(Conflict):
    """No trial of the sweep has published a model yet."""


class IdempotencyMismatch(KilnError):
    """An Idempotency-Key came with another body than the first time."""


class Unauthenticated(KilnError):
    """The request has no API key, or an unknown one."""


class Forbidden(KilnError):
    """The API key lacks the scope that the request needs."""

    def __init__(self, name: str, scope: str) -> None:
        self.scope = scope
        super().__init__(f"key {name!r} lacks the scope {scope!r}")


class StaleFence(KilnError):
    """The worker no longer owns the job: another worker has claimed it, or it has ended."""


class Unavailable(KilnError):
    """Kiln cannot serve the request at the moment; the caller may retry after `retry_after_s` seconds."""

    retry_after_s = 2

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class StoreUnavailable(Unavailable):
    """Redis, which stores the jobs and the queue, does not respond."""


class EvictingStore(StoreUnavailable):
    """Redis may delete keys to free memory, and would lose accepted jobs."""

    retry_after_s = 60  # an administrator has to change the policy


class NoModelReady(Unavailable):
    """No model is loaded yet: none is published, or it is still warming up."""


class Overloaded(Unavailable):
    """The queue of the model is full."""


class Draining(Unavailable):
    """This process is shutting down and accepts no new clients."""


class BodyTooLarge(KilnError):
    """The body of a request is larger than the limit of its route."""


class BodyTooSlow(KilnError):
    """The client stopped sending the body of its request."""


class StorageFull(KilnError):
    """The disk of the server has no room for what the caller sent."""


class CorruptArtifact(KilnError):
    """Stored bytes do not match the digest they were stored under."""


class TrainingFailed(KilnError):
    """A training run cannot continue. `reason` is a value of `shared.jobs.record.Reason`."""

    reason = "error"


class BadConfig(TrainingFailed):
    """The config is valid but cannot be trained; its data set may not exist, for example."""

    reason = "bad_config"


class BadDataset(BadConfig):
    """The data set is missing, incomplete or empty."""


class EnvironmentFailed(TrainingFailed):
    """The data, the disk or the device of a run is missing or has changed; the job can be resumed once it is back."""

    reason = "environment"


class Diverged(TrainingFailed):
    """A loss or a weight is not a finite number."""

    reason = "diverged"


class ParityFailed(TrainingFailed):
    """The exported ONNX graph and the torch network compute different images."""

    reason = "parity"
