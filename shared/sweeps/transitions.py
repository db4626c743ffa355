"""The changes that a sweep can go through, as pure functions from one record to the next.

`now` is the store's time. Every function is idempotent, because another replica may call it again, also after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shared.jobs.record import new_job_id
from shared.sweeps.record import Sweep, SweepStatus, Trial, TrialState


def ask(sweep: Sweep, now: datetime, *, number: int, params: dict[str, Any], error: str | None = None) -> Sweep:
    """Adds a trial and the id of its job, unless the sweep already has a trial of that number.

    With `error`, no job can have these parameters, and the trial has failed from the start.
    """
    if sweep.is_over or sweep.is_complete or number != len(sweep.trials):
        return sweep
    if error is None:
        trial = Trial(number=number, params=params, job_id=new_job_id(now))
    else:
        trial = Trial(number=number, params=params, job_id=None, state=TrialState.FAILED, error=error)
    return _concluded(sweep.model_copy(update={"trials": (*sweep.trials, trial)}), now)


def prune(sweep: Sweep, now: datetime, *, number: int, percent: int) -> Sweep:
    """Marks the trial as pruned after `percent` of its budget. The trial is over once its job is."""
    trial = sweep.trials[number]
    return sweep if trial.is_over or trial.pruned_at is not None else _with(sweep, trial, {"pruned_at": percent})


def tell(sweep: Sweep, now: datetime, *, number: int, state: TrialState, **outcome: Any) -> Sweep:
    """Records a trial's result: `value`, `model_id`, `intermediate_values`, `error`. A second result is ignored."""
    trial = sweep.trials[number]
    return sweep if trial.is_over else _concluded(_with(sweep, trial, {"state": state, **outcome}), now)


def cancel(sweep: Sweep, now: datetime) -> Sweep:
    """Starts no further trial and cancels the open ones. Does not change a sweep that is over."""
    if sweep.is_over or sweep.stopping:
        return sweep
    return _concluded(sweep.model_copy(update={"stopping": "cancel"}), now)


def give_up(sweep: Sweep, now: datetime, *, error: str) -> Sweep:
    """Fails the sweep after an error that every further trial would meet; otherwise as `cancel`."""
    if sweep.is_over or sweep.stopping:
        return sweep
    return _concluded(sweep.model_copy(update={"stopping": "fail", "error": error}), now)


def _with(sweep: Sweep, trial: Trial, changes: Mapping[str, Any]) -> Sweep:
    trials = list(sweep.trials)
    trials[trial.number] = trial.model_copy(update=dict(changes))
    return sweep.model_copy(update={"trials": tuple(trials)})


def _concluded(sweep: Sweep, now: datetime) -> Sweep:
    """Ends the sweep if no trial is open and none will start."""
    if sweep.open_trials or not sweep.is_complete:
        return sweep
    status, error = SweepStatus.SUCCEEDED, sweep.error
    if sweep.stopping == "cancel":
        status = SweepStatus.CANCELLED
    elif sweep.stopping == "fail" or sweep.best is None:
        status, error = SweepStatus.FAILED, error or "no trial has a value; each trial gives its reason"
    return sweep.model_copy(update={"status": status, "error": error, "finished_at": now})
