"""Everything that can go wrong, in the domain's words; no HTTP in here.

KilnError
├── InvalidInput             the caller's values: each problem names its field and the value
├── NotFound
│   ├── UnknownJob
│   ├── UnknownModel
│   ├── UnknownPreview
│   ├── UnknownSample
│   ├── UnknownPreset
│   ├── UnknownAlias
│   ├── UnknownSweep
│   └── UnknownClassifier
├── Conflict                 the request is fine, the state it meets is not
│   ├── IllegalTransition
│   └── NothingToPromote
├── IdempotencyMismatch      one Idempotency-Key, two different bodies
├── Unauthenticated          no key, or none that Kiln knows
├── Forbidden                a known key that may not do this
├── StaleFence               a worker that lost its lease tried to write
├── Unavailable              try again later
│   ├── StoreUnavailable
│   ├── NoModelReady
│   ├── Overloaded
│   └── Draining
├── CorruptArtifact          stored bytes are not what was stored
└── TrainingFailed           a training run cannot go on; carries a ReasonCode
    ├── BadConfig
    │   └── BadDataset
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
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room, or none for this user or file


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field. `field` is dotted, e.g. `overrides.lr`."""

    field: str
    value: Any
    message: str

    def as_json(self) -> dict[str, Any]:
        return {"field": printable(self.field), "value": printable(self.value), "message": self.message}


def printable(value: Any) -> Any:
    """The value as it may stand in a JSON error: short, and with NaN and infinities as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | float):
        return value
    # Python refuses to print integers of more than 4300 digits; nobody needs to read them either.
    if isinstance(value, int):
        return value if abs(value) < 10**18 else f"an integer of {value.bit_length()} bits"
    text = value if isinstance(value, str) else _repr(value)
    # A lone surrogate is legal in a JSON string and cannot be encoded as UTF-8 again.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer too long to print somewhere inside, or too deep a nesting
        return f"a {type(value).__name__} that cannot be printed"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: `"; did you mean 'tiny'?"`, or `""` if no known name is similar."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class KilnError(Exception):
    """Any error that Kiln raises on purpose."""


class InvalidInput(KilnError):
    """The caller sent values that cannot be used; `problems` names each field and value."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        told = (f"{printable(p.field)}: {p.message} (got {printable(p.value)!r})" for p in self.problems)
        super().__init__("; ".join(told))

    @classmethod
    def of(cls, field: str, value: Any, message: str) -> InvalidInput:
        return cls([FieldProblem(field, value, message)])


class NotFound(KilnError):
    """What was named does not exist."""

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


class Conflict(KilnError):
    """The request is well formed but does not fit the present state."""


class IllegalTransition(Conflict):
    """A job cannot go from the status it has to the one asked for."""


class NothingToPromote(Conflict):
    """No trial of a sweep has a model yet."""


class IdempotencyMismatch(KilnError):
    """An Idempotency-Key was used before with another body."""


class Unauthenticated(KilnError):
    """The caller showed no key, or one that nobody has."""


class Forbidden(KilnError):
    """The caller's key is not meant for what was asked; `scope` is what it would take."""

    def __init__(self, name: str, scope: str) -> None:
        self.scope = scope
        super().__init__(f"this takes the scope {scope!r}, which the key {name!r} has not")


class StaleFence(KilnError):
    """The writer no longer owns the job: somebody else claimed it since, or it has ended."""


class Unavailable(KilnError):
    """Something Kiln needs is not there at the moment; worth trying again after `retry_after_s` seconds."""

    retry_after_s = 2

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class StoreUnavailable(Unavailable):
    """The job store (Redis) does not answer."""


class NoModelReady(Unavailable):
    """No model is loaded yet: none is published, or it is being warmed up."""


class Overloaded(Unavailable):
    """More images wait than the server is willing to queue."""


class Draining(Unavailable):
    """This process has been told to stop and takes no new clients."""


class CorruptArtifact(KilnError):
    """Stored bytes do not match the digest they were stored under."""


class TrainingFailed(KilnError):
    """A training run cannot go on. `reason` is a ReasonCode of `shared.jobs.record`."""

    reason = "error"


class BadConfig(TrainingFailed):
    """The configuration is valid by itself but cannot be trained (say, no such data set)."""

    reason = "bad_config"


class BadDataset(BadConfig):
    """The data set is missing, incomplete or has nothing in it."""


class Diverged(TrainingFailed):
    """A loss stopped being a finite number."""

    reason = "diverged"


class ParityFailed(TrainingFailed):
    """The exported ONNX graph does not compute what the torch network computes."""

    reason = "parity"
