"""How a sweep may change: pure functions from one record to the next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shared.jobs.record import new_job_id
from shared.sweeps.record import (
    Sweep,
    SweepStatus,
    Trial,
    TrialState,
)


def ask(sweep: Sweep, now: datetime, *, number: int, params: dict[str, Any], error: str | None = None) -> Sweep:
    """Adds the trial, and with it the id of its job, unless there is one of that number by now.

    With an error nothing can be trained with these values, and the trial is over.
    """
    if sweep.is_over or sweep.is_complete or number != len(sweep.trials):
        return sweep
    if error is None:
        trial = Trial(number=number, params=params, job_id=new_job_id(now))
    else:
        trial = Trial(number=number, params=params, job_id=None, state=TrialState.FAILED, error=error)
    return _concluded(sweep.model_copy(update={"trials": (*sweep.trials, trial)}), now)


def prune(sweep: Sweep, now: datetime, *, number: int, percent: int) -> Sweep:
    """The trial is not worth the rest of its budget. It is over when its job is."""
    trial = sweep.trials[number]
    return sweep if trial.is_over or trial.pruned_at is not None else _with(sweep, trial, {"pruned_at": percent})


def tell(sweep: Sweep, now: datetime, *, number: int, state: TrialState, **outcome: Any) -> Sweep:
    """What came of a trial: `value`, `model_id`, `reported`, `error`. The first word stands."""
    trial = sweep.trials[number]
    return sweep if trial.is_over else _concluded(_with(sweep, trial, {"state": state, **outcome}), now)


def cancel(sweep: Sweep, now: datetime) -> Sweep:
    """No more trials, and an end to those that are not over. Idempotent; a sweep that is over stays as it is."""
    if sweep.is_over or sweep.stopping:
        return sweep
    return _concluded(sweep.model_copy(update={"stopping": "cancel"}), now)


def give_up(sweep: Sweep, now: datetime, *, error: str) -> Sweep:
    """The same, for what would befall every further trial as well."""
    if sweep.is_over or sweep.stopping:
        return sweep
    return _concluded(sweep.model_copy(update={"stopping": "fail", "error": error}), now)


def _with(sweep: Sweep, trial: Trial, changes: Mapping[str, Any]) -> Sweep:
    trials = list(sweep.trials)
    trials[trial.number] = trial.model_copy(update=dict(changes))
    return sweep.model_copy(update={"trials": tuple(trials)})


def _concluded(sweep: Sweep, now: datetime) -> Sweep:
    """The sweep is over when no trial is to come and none is open."""
    if sweep.open_trials or not sweep.is_complete:
        return sweep
    status, error = SweepStatus.SUCCEEDED, sweep.error
    if sweep.stopping == "cancel":
        status = SweepStatus.CANCELLED
    elif sweep.stopping == "fail" or sweep.best is None:
        status, error = SweepStatus.FAILED, error or "no trial came to a value; each says why"
    return sweep.model_copy(update={"status": status, "error": error, "finished_at": now})
