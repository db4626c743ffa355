"""`kiln.sweeps`, synchronous and asyncio: hyperparameter searches whose trials are ordinary jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kiln import _requests
from kiln._requests import Call
from kiln.types import SweepData

if TYPE_CHECKING:
    from kiln.async_client import AsyncKiln
    from kiln.client import Kiln

PAUSE_S = 0.5  # between the end of a job and the server's next step of the sweep

Space = Mapping[str, Mapping[str, Any]]


class Sweeps:
    """`kiln.sweeps`"""

    def __init__(self, kiln: Kiln) -> None:
        self._kiln = kiln

    def create(
        self, preset: str, space: Space, metric: str, direction: str = "minimize", *,
        idempotency_key: str | None = None, **options: Any,
    ) -> SweepData:  # fmt: skip
        """Starts a sweep. Options as in POST /sweeps: n_trials, overrides, dataset, pruning, parallelism, seed, name.

        Raises InvalidInput, which names each wrong field.
        """
        return self._send(_requests.create_sweep(_body(preset, space, metric, direction, options), idempotency_key))

    def dry_run(
        self, preset: str, space: Space, metric: str, direction: str = "minimize", **options: Any
    ) -> dict[str, Any]:
        """The parsed request and one config from the space, without creating a sweep. Raises InvalidInput."""
        return self._kiln.send(_requests.dry_run_sweep(_body(preset, space, metric, direction, options)))

    def get(self, sweep_id: str) -> SweepData:
        return self._send(_requests.get_sweep(sweep_id))

    def list(self) -> Sequence[SweepData]:
        """Newest first, without their trials."""
        return [SweepData.model_validate(row) for row in self._kiln.send(_requests.list_sweeps())]

    def cancel(self, sweep_id: str) -> SweepData:
        """Ends the sweep and cancels those of its jobs that are not over."""
        return self._send(_requests.cancel_sweep(sweep_id))

    def promote(self, sweep_id: str, alias: str = "default") -> str:
        """Points the alias at the best model so far and returns the model's id. Raises Conflict if there is none."""
        return str(self._kiln.send(_requests.promote_best(sweep_id, alias))["model_id"])

    def wait(self, sweep_id: str, on_progress: Callable[[SweepData], object] | None = None) -> SweepData:
        """Blocks until the sweep is over; calls `on_progress(sweep)` after each trial."""
        while not (sweep := self.get(sweep_id)).is_over:
            if on_progress is not None:
                on_progress(sweep)
            for job_id in _first_running_job(sweep):
                self._kiln.jobs.wait(job_id)
            time.sleep(PAUSE_S)
        return sweep

    def _send(self, call: Call[dict[str, Any]]) -> SweepData:
        return SweepData.model_validate(self._kiln.send(call))


class AsyncSweeps:
    """`kiln.sweeps`"""

    def __init__(self, kiln: AsyncKiln) -> None:
        self._kiln = kiln

    async def create(
        self, preset: str, space: Space, metric: str, direction: str = "minimize", *,
        idempotency_key: str | None = None, **options: Any,
    ) -> SweepData:  # fmt: skip
        """Starts a sweep. Options as in POST /sweeps: n_trials, overrides, dataset, pruning, parallelism, seed, name.

        Raises InvalidInput, which names each wrong field.
        """
        body = _body(preset, space, metric, direction, options)
        return await self._send(_requests.create_sweep(body, idempotency_key))

    async def dry_run(
        self, preset: str, space: Space, metric: str, direction: str = "minimize", **options: Any
    ) -> dict[str, Any]:
        """The parsed request and one config from the space, without creating a sweep. Raises InvalidInput."""
        return await self._kiln.send(_requests.dry_run_sweep(_body(preset, space, metric, direction, options)))

    async def get(self, sweep_id: str) -> SweepData:
        return await self._send(_requests.get_sweep(sweep_id))

    async def list(self) -> Sequence[SweepData]:
        """Newest first, without their trials."""
        return [SweepData.model_validate(row) for row in await self._kiln.send(_requests.list_sweeps())]

    async def cancel(self, sweep_id: str) -> SweepData:
        """Ends the sweep and cancels those of its jobs that are not over."""
        return await self._send(_requests.cancel_sweep(sweep_id))

    async def promote(self, sweep_id: str, alias: str = "default") -> str:
        """Points the alias at the best model so far and returns the model's id. Raises Conflict if there is none."""
        return str((await self._kiln.send(_requests.promote_best(sweep_id, alias)))["model_id"])

    async def wait(self, sweep_id: str, on_progress: Callable[[SweepData], object] | None = None) -> SweepData:
        """Returns when the sweep is over; calls `on_progress(sweep)` after each trial."""
        while not (sweep := await self.get(sweep_id)).is_over:
            if on_progress is not None:
                on_progress(sweep)
            for job_id in _first_running_job(sweep):
                await self._kiln.jobs.wait(job_id)
            await asyncio.sleep(PAUSE_S)
        return sweep

    async def _send(self, call: Call[dict[str, Any]]) -> SweepData:
        return SweepData.model_validate(await self._kiln.send(call))


def _body(preset: str, space: Space, metric: str, direction: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"preset": preset, "space": space, "objective": {"metric": metric, "direction": direction}, **options}


def _first_running_job(sweep: SweepData) -> Sequence[str]:
    return [trial.job_id for trial in sweep.trials if trial.state == "running" and trial.job_id][:1]
