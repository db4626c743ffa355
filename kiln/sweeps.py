"""`kiln.sweeps`: searches for the best values of some overrides, over the REST API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from kiln import _requests as wire
from kiln._requests import Call

PAUSE_S = 0.5  # between the end of a job and what the API makes of it


class TrialData(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    number: int
    params: dict[str, Any]
    job_id: str | None
    state: Literal["running", "complete", "pruned", "failed"]
    value: float | None
    model_id: str | None
    error: str | None


class SweepData(BaseModel):
    """A sweep as the API shows it; in a list, without its trials."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    id: str
    name: str | None
    preset: str
    dataset: str
    overrides: dict[str, Any]
    space: dict[str, dict[str, Any]]
    objective: dict[str, str]
    n_trials: int
    status: Literal["running", "succeeded", "failed", "cancelled"]
    error: str | None
    counts: dict[str, int]
    best: TrialData | None
    trials: tuple[TrialData, ...] = ()
    created_at: datetime
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        return self.status != "running"


class Sweeps:
    """`kiln.sweeps`"""

    def __init__(self, kiln: Any) -> None:
        self._kiln = kiln

    def create(
        self, preset: str, space: Mapping[str, Mapping[str, Any]], metric: str,
        direction: str = "minimize", *, idempotency_key: str | None = None, **plan: Any,
    ) -> SweepData:  # fmt: skip
        """Starts a sweep. `plan` as in POST /sweeps: n_trials, overrides, dataset, pruning, parallelism, seed, name.

        Raises InvalidInput, which names each wrong field.
        """
        return self._send(create_sweep(_body(preset, space, metric, direction, plan), idempotency_key))

    def dry_run(
        self, preset: str, space: Mapping[str, Mapping[str, Any]], metric: str,
        direction: str = "minimize", **plan: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """The plan as understood, and a config that it may come to. Raises InvalidInput."""
        resolved: dict[str, Any] = self._kiln.send(dry_run(_body(preset, space, metric, direction, plan)))
        return resolved

    def get(self, sweep_id: str) -> SweepData:
        return self._send(wire.get_sweep(sweep_id))

    def list(self) -> Sequence[SweepData]:
        """The newest first, without their trials."""
        return [SweepData.model_validate(row) for row in self._kiln.send(wire.list_sweeps())]

    def cancel(self, sweep_id: str) -> SweepData:
        """Ends the sweep and those of its jobs that are not over."""
        return self._send(wire.cancel_sweep(sweep_id))

    def promote(self, sweep_id: str, alias: str = "default") -> str:
        """Points the alias at the best model so far. -> its id. Raises Conflict when there is none."""
        return str(self._kiln.send(promote_best(sweep_id, alias))["model_id"])

    def wait(self, sweep_id: str, on_progress: Callable[[SweepData], object] | None = None) -> SweepData:
        """Returns the sweep when it is over. `on_progress(sweep)` is called whenever a trial has ended."""
        sweep = self.get(sweep_id)
        while not sweep.is_over:
            if on_progress is not None:
                on_progress(sweep)
            opened = [trial.job_id for trial in sweep.trials if trial.state == "running" and trial.job_id]
            for job_id in opened[:1]:
                for _ in self._kiln.follow(job_id):  # until that job is over
                    pass
            time.sleep(PAUSE_S)
            sweep = self.get(sweep_id)
        return sweep

    def _send(self, call: Call[dict[str, Any]]) -> SweepData:
        return SweepData.model_validate(self._kiln.send(call))


def create_sweep(body: Mapping[str, Any], idempotency_key: str | None = None) -> Call[dict[str, Any]]:
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Call("POST", "/sweeps", lambda answer: answer.json(), json=body, headers=headers)


def dry_run(body: Mapping[str, Any]) -> Call[dict[str, Any]]:
    return Call("POST", "/sweeps", lambda answer: answer.json(), params={"dry_run": "true"}, json=body)


def promote_best(sweep_id: str, alias: str) -> Call[dict[str, Any]]:
    path = f"/sweeps/{quote(sweep_id, safe='')}/promote"
    return Call("POST", path, lambda answer: answer.json(), json={"alias": alias})


def _body(preset: str, space: Any, metric: str, direction: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    return {"preset": preset, "space": space, "objective": {"metric": metric, "direction": direction}, **plan}
