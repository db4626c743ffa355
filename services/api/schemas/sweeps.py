"""What goes over the wire about sweeps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.api.schemas import JobRequest
from shared.configs.train import TrainConfig
from shared.sweeps.record import (
    MAX_PARAMETERS,
    MAX_TRIALS,
    Objective,
    Parameter,
    Sweep,
    SweepSpec,
    SweepStatus,
    Trial,
    TrialState,
)

SPACE = {"lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
         "batch_size": {"type": "int", "low": 16, "high": 64, "step": 16},
         "loss": {"type": "categorical", "choices": ["hinge", "bce"]}}  # fmt: skip


class SweepRequest(JobRequest):
    """Body of POST /sweeps: a job's, and what is to be searched. `overrides` are the same in all trials."""

    space: Annotated[
        dict[str, Parameter],
        Field(
            min_length=1, max_length=MAX_PARAMETERS, examples=[SPACE], description="What to vary: fields of the config."
        ),
    ]
    objective: Annotated[Objective, Field(description="What is to become small or large.")]
    n_trials: Annotated[
        int, Field(strict=True, ge=1, le=MAX_TRIALS, description="How many jobs, failed and pruned ones included.")
    ]
    pruning: Annotated[
        bool, Field(strict=True, description="Stop a trial that is worse on its way than the median of the others.")
    ] = False
    seed: Annotated[
        int, Field(strict=True, ge=0, lt=2**31, description="Of the search; the jobs' own is an override.")
    ] = 0
    parallelism: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1000)] | None,
        Field(description="Trials at a time; null: as many as there are workers."),
    ] = None

    @property
    def plan(self) -> SweepSpec:
        return SweepSpec(**{name: getattr(self, name) for name in SweepSpec.model_fields})


class SweepListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[str | None, Field(max_length=100, description="Id of the last sweep of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class PromoteRequest(BaseModel):
    """Body of POST /sweeps/{id}/promote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alias: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")] = "default"


class SweepSummary(BaseModel):
    """A sweep without its trials, but for the best one."""

    id: str
    name: str | None
    preset: str
    dataset: str
    overrides: dict[str, Any]
    space: dict[str, Parameter]
    objective: Objective
    n_trials: int
    pruning: bool
    seed: int
    parallelism: int | None
    status: SweepStatus
    error: str | None
    counts: dict[TrialState, int]
    best: Trial | None
    created_at: datetime
    finished_at: datetime | None
    links: dict[str, str]

    @classmethod
    def fields_of(cls, sweep: Sweep) -> dict[str, Any]:
        states = [trial.state for trial in sweep.trials]
        links = {"self": f"/sweeps/{sweep.id}", "history": f"/sweeps/{sweep.id}/history.png",
                 "importances": f"/sweeps/{sweep.id}/importances.png"}  # fmt: skip
        if not sweep.is_over:
            links |= {"cancel": f"/sweeps/{sweep.id}/cancel"}
        if sweep.best is not None:
            links |= {"promote": f"/sweeps/{sweep.id}/promote", "model": f"/models/{sweep.best.model_id}"}
        own = ("id", "name", "status", "error", "best", "created_at", "finished_at")
        return {
            **{name: getattr(sweep.plan, name) for name in SweepSpec.model_fields},
            **{name: getattr(sweep, name) for name in own},
            "counts": {state: states.count(state) for state in TrialState},
            "links": links,
        }

    @classmethod
    def of(cls, sweep: Sweep) -> SweepSummary:
        return cls(**cls.fields_of(sweep))


class SweepView(SweepSummary):
    """A sweep as its user sees it."""

    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, sweep: Sweep) -> SweepView:
        return cls(**cls.fields_of(sweep), trials=sweep.trials)


class SweepList(BaseModel):
    data: list[SweepSummary]
    has_more: bool


class ResolvedSweep(BaseModel):
    """Answer of a dry run: the plan, and a config that it may come to."""

    plan: SweepSpec
    config: TrainConfig
