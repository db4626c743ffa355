"""Requests and responses of /sweeps."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from services.api.schemas.jobs import JobRequest
from services.api.schemas.request import RequestModel
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
    """Body of POST /sweeps: a job's body and the search space. All trials share the `overrides`."""

    space: Annotated[
        dict[str, Parameter],
        Field(
            min_length=1,
            max_length=MAX_PARAMETERS,
            examples=[SPACE],
            description="Config fields to vary, and their ranges.",
        ),
    ]
    objective: Annotated[Objective, Field(description="The metric to minimise or maximise.")]
    n_trials: Annotated[
        int, Field(strict=True, ge=1, le=MAX_TRIALS, description="Number of jobs, including failed and pruned ones.")
    ]
    pruning: Annotated[
        bool,
        Field(
            strict=True,
            description="Stop a trial early if it is worse than the median of the others at the same step.",
        ),
    ] = False
    seed: Annotated[
        int, Field(strict=True, ge=0, lt=2**31, description="Seed of the search. The seed of the jobs is an override.")
    ] = 0
    parallelism: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=1000)] | None,
        Field(description="Trials to run at a time. Default: one per worker."),
    ] = None

    @property
    def spec(self) -> SweepSpec:
        return SweepSpec(**{name: getattr(self, name) for name in SweepSpec.model_fields})


class SweepListQuery(RequestModel):
    """Query of GET /sweeps."""

    after: Annotated[str | None, Field(max_length=100, description="Id of the last sweep of the previous page.")] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class PromoteRequest(RequestModel):
    """Body of POST /sweeps/{id}/promote."""

    alias: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")] = "default"


class SweepSummary(BaseModel):
    """A sweep with its best trial only, for lists."""

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
            **{name: getattr(sweep.spec, name) for name in SweepSpec.model_fields},
            **{name: getattr(sweep, name) for name in own},
            "counts": {state: states.count(state) for state in TrialState},
            "links": links,
        }

    @classmethod
    def of(cls, sweep: Sweep) -> SweepSummary:
        return cls(**cls.fields_of(sweep))


class SweepView(SweepSummary):
    """A sweep with all its trials."""

    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, sweep: Sweep) -> SweepView:
        return cls(**cls.fields_of(sweep), trials=sweep.trials)


class SweepList(BaseModel):
    """One page of sweeps."""

    data: list[SweepSummary]
    has_more: bool


class ResolvedSweep(BaseModel):
    """Response of a dry run: the sweep, and the config of one possible trial."""

    plan: SweepSpec
    config: TrainConfig
