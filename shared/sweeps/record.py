"""What a sweep is and how it may change: many training jobs that look for the best values of some overrides.

A sweep's record holds all that the search knows, so who proposes the next trial needs nothing else: every trial with
its values, what it reported on the way and what came of it. Functions are pure; `now` is the store's time, as in
shared.jobs.record. Each may be called again, by another replica or after a crash: what has happened does not happen
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.jobs.record import new_job_id

MAX_TRIALS = 1000
MAX_PARAMETERS = 20
INTEGERS = 2**53  # what a JSON number holds exactly

Integer = Annotated[int, Field(strict=True, ge=-INTEGERS, le=INTEGERS)]
Real = Annotated[float, Field(strict=True, ge=-1e12, le=1e12, allow_inf_nan=False)]


class SweepStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # all trials are over, and one at least has a value
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    RUNNING = "running"  # its job waits, runs or is paused
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class _Range(_Record):
    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high, log = getattr(self, "low", 0), getattr(self, "high", 0), getattr(self, "log", False)
        if low > high:
            raise ValueError(f"low is {low} and high is {high}")
        if log and low <= 0:
            raise ValueError(f"with log, low must be above 0; it is {low}")
        if log and getattr(self, "step", 1) != 1:
            raise ValueError("log and step exclude each other")
        return self


class FloatRange(_Range):
    """Any number from low to high; with `log`, as many of each magnitude."""

    type: Literal["float"]
    low: Real
    high: Real
    log: bool = False

    @property
    def ends(self) -> Mapping[str, Any]:
        """What a config has to accept, by where it stands."""
        return {"low": self.low, "high": self.high}


class IntRange(_Range):
    """low, low + step and so on, up to high."""

    type: Literal["int"]
    low: Integer
    high: Integer
    log: bool = False
    step: Annotated[int, Field(strict=True, ge=1, le=INTEGERS)] = 1

    @property
    def ends(self) -> Mapping[str, Any]:
        return {"low": self.low, "high": self.high - (self.high - self.low) % self.step}


class Choice(_Record):
    """One of the values, which may be anything that the field takes: words, numbers, null, lists of channels."""

    type: Literal["categorical"]
    choices: Annotated[list[Any], Field(min_length=1, max_length=50)]

    @property
    def ends(self) -> Mapping[str, Any]:
        return {f"choices.{number}": value for number, value in enumerate(self.choices)}


Parameter = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class Objective(_Record):
    """A figure of the model that a trial's job published, or else the last value in the job's metrics series."""

    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", examples=["fid", "loss_g"])]
    direction: Literal["minimize", "maximize"]


class SweepSpec(_Record):
    """What is searched, and how."""

    preset: str
    dataset: str
    overrides: dict[str, Any]  # the same in all trials
    space: dict[str, Parameter]
    objective: Objective
    n_trials: int
    pruning: bool
    seed: int
    parallelism: int | None  # trials at a time; null: as many as there are workers


class Trial(_Record):
    """One point of the search space, and the job that tries it."""

    number: int
    params: dict[str, Any]
    job_id: str | None  # null: its values exclude each other, so there is nothing to train
    state: TrialState = TrialState.RUNNING
    value: float | None = None
    model_id: str | None = None
    reported: dict[int, float] = Field(default_factory=dict)  # share of the budget in percent -> value
    pruned_at: int | None = None  # the share of the budget at which it was told to stop
    error: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state is not TrialState.RUNNING


class Sweep(_Record):
    """One sweep, as stored."""

    id: str
    name: str | None
    plan: SweepSpec
    status: SweepStatus = SweepStatus.RUNNING
    error: str | None = None
    stopping: Literal["cancel", "fail"] | None = None  # it asks for no more trials and ends those that are not over
    trials: tuple[Trial, ...] = ()
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.status is not SweepStatus.RUNNING

    @property
    def open_trials(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if not trial.is_over)

    @property
    def is_complete(self) -> bool:
        """No trial is to come."""
        return self.stopping is not None or len(self.trials) >= self.plan.n_trials

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best value; of equals, the first."""
        pick = max if self.plan.objective.direction == "maximize" else min
        values = self.values
        return self.trials[pick(values, key=values.__getitem__)] if values else None

    @property
    def values(self) -> dict[int, float]:
        """What the complete trials came to, by their numbers."""
        return {trial.number: trial.value for trial in self.trials if trial.value is not None}


def new_sweep(now: datetime, *, plan: SweepSpec, name: str | None) -> Sweep:
    return Sweep(id=new_job_id(now), name=name, plan=plan, created_at=now)
