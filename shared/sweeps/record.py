"""The frozen record of a sweep: training jobs that search for the best values of some overrides.

The record holds the whole state of the search: every trial with its parameters, intermediate values and result. A
search algorithm needs nothing else to suggest the next trial. `shared.sweeps.transitions` changes the record.
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
INTEGERS = 2**53  # up to here, every integer is exact as a JSON number

Integer = Annotated[int, Field(strict=True, ge=-INTEGERS, le=INTEGERS)]
Real = Annotated[float, Field(strict=True, ge=-1e12, le=1e12, allow_inf_nan=False)]


class SweepStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # all trials are over, and at least one has a value
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    RUNNING = "running"  # its job is queued, running or paused
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class _Record(BaseModel):
    # Stored records and responses of the API use the aliases.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True, serialize_by_alias=True
    )


class _Range(_Record):
    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high, log = getattr(self, "low", 0), getattr(self, "high", 0), getattr(self, "log", False)
        if low > high:
            raise ValueError(f"low is {low} and high is {high}")
        if log and low <= 0:
            raise ValueError(f"with log, low must be above 0; it is {low}")
        if log and getattr(self, "step", 1) != 1:
            raise ValueError("log and step cannot be combined; remove one of them")
        return self


class FloatRange(_Range):
    """Any number from low to high. With `log`, every order of magnitude is equally likely."""

    type: Literal["float"]
    low: Real
    high: Real
    log: bool = False

    @property
    def ends(self) -> Mapping[str, Any]:
        """The extreme values, by the field that holds them. The config must accept them all."""
        return {"low": self.low, "high": self.high}


class IntRange(_Range):
    """The integers low, low + step, low + 2 * step, ... up to high."""

    type: Literal["int"]
    low: Integer
    high: Integer
    log: bool = False
    step: Annotated[int, Field(strict=True, ge=1, le=INTEGERS)] = 1

    @property
    def ends(self) -> Mapping[str, Any]:
        return {"low": self.low, "high": self.high - (self.high - self.low) % self.step}


class Choice(_Record):
    """One of the listed values. Each may be anything that the field accepts: strings, numbers, null, lists."""

    type: Literal["categorical"]
    choices: Annotated[list[Any], Field(min_length=1, max_length=50)]

    @property
    def ends(self) -> Mapping[str, Any]:
        return {f"choices.{number}": value for number, value in enumerate(self.choices)}


Parameter = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]


class Objective(_Record):
    """The metric to optimise: of the model that a trial publishes, or the last value of the job's metrics series."""

    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", examples=["fid", "loss_g"])]
    direction: Literal["minimize", "maximize"]


class SweepSpec(_Record):
    """The specification of a sweep: preset, search space, objective, and the settings of the search."""

    preset: str
    dataset: str
    overrides: dict[str, Any]  # shared by all trials
    space: dict[str, Parameter]
    objective: Objective
    n_trials: int
    pruning: bool
    seed: int
    parallelism: int | None  # trials that run at the same time; null: one per worker


class Trial(_Record):
    """One point of the search space, and the job that trains with it."""

    number: int
    params: dict[str, Any]
    job_id: str | None  # null: no config has these parameters together, so there is no job
    state: TrialState = TrialState.RUNNING
    value: float | None = None
    model_id: str | None = None
    # percent of the budget -> value of the objective
    intermediate_values: dict[int, float] = Field(default_factory=dict, alias="reported")
    pruned_at: int | None = None  # percent of the budget at which it was pruned
    error: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state is not TrialState.RUNNING


class Sweep(_Record):
    """A sweep, as stored."""

    id: str
    name: str | None
    spec: SweepSpec = Field(alias="plan")
    status: SweepStatus = SweepStatus.RUNNING
    error: str | None = None
    stopping: Literal["cancel", "fail"] | None = None  # no further trials start, and the open ones are cancelled
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
        """No further trial will start."""
        return self.stopping is not None or len(self.trials) >= self.spec.n_trials

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best value; the first one, if several have it."""
        best_of = max if self.spec.objective.direction == "maximize" else min
        values = self.values
        return self.trials[best_of(values, key=values.__getitem__)] if values else None

    @property
    def values(self) -> dict[int, float]:
        """The values of the complete trials, by trial number."""
        return {trial.number: trial.value for trial in self.trials if trial.value is not None}


def new_sweep(now: datetime, *, spec: SweepSpec, name: str | None) -> Sweep:
    return Sweep(id=new_job_id(now), name=name, spec=spec, created_at=now)
