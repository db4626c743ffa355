"""Runs sweeps: suggests trials, submits their jobs, records the results, and cancels trials that should be pruned.

The next step depends on the records alone, and each step is recorded before it is taken: the trial and its job's id
before the job is created, the pruning before the cancellation. So another process can continue after a crash at any
point, and each replica of the API may run a runner: a step that another replica has taken is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from services.api.sweeps import optuna_study
from shared.configs.presets import resolve
from shared.errors import CorruptArtifact, InvalidInput, StoreUnavailable, UnknownJob, UnknownModel
from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus, SweepTrial, new_job
from shared.jobs.store import JobStore, Metrics
from shared.storage.model_registry import ModelRegistry
from shared.storage.redis import Idempotency
from shared.sweeps import transitions as sweep_transitions
from shared.sweeps.record import Sweep, SweepSpec, Trial, TrialState, new_sweep
from shared.sweeps.store import SweepStore

log = logging.getLogger("kiln.sweeps")

INTERVAL_S = 1.0  # between two rounds over all sweeps


@dataclass(frozen=True)
class SweepRunner:
    """`enqueue` sends a stored job to the queue; if that fails, the reaper sends it later."""

    sweeps: SweepStore
    jobs: JobStore
    registry: ModelRegistry
    enqueue: Callable[[Job], Job]
    _judged_nimg: dict[str, int] = field(
        default_factory=dict
    )  # job id -> images seen at the last metrics row that was considered

    def start(self, spec: SweepSpec, name: str | None, idempotency: Idempotency | None) -> Sweep:
        """Stores a sweep with a validated spec and submits its first trials. Raises IdempotencyMismatch."""
        sweep, _ = self.sweeps.create(partial(new_sweep, spec=spec, name=name), idempotency)
        return self.advance_now(sweep)

    def cancel(self, sweep_id: str) -> Sweep:
        """Cancels the sweep and its jobs. Raises UnknownSweep."""
        return self.advance_now(self.sweeps.update(sweep_id, sweep_transitions.cancel))

    def advance_all(self) -> None:
        """One round over all sweeps that are not over. Raises StoreUnavailable."""
        for sweep in self.sweeps.open():
            try:
                self.advance(sweep)
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("sweep %s: a round failed; the next one starts soon", sweep.id)

    def advance_now(self, sweep: Sweep) -> Sweep:
        """One round for one sweep, during a request. If the store fails, a periodic round takes the steps later."""
        try:
            return sweep if sweep.is_over else self.advance(sweep)
        except StoreUnavailable as error:
            log.warning("sweep %s is stored and will be advanced later: %s", sweep.id, error)
            return sweep

    def advance(self, sweep: Sweep) -> Sweep:
        """Takes all steps that are due. -> the updated sweep"""
        open_jobs = self._advance_trials(sweep)
        sweep = self.sweeps.get(sweep.id)
        # One trial waits in the queue at any time: no worker is idle, and each trial is suggested as late as possible.
        while self._needs_a_trial(sweep, open_jobs):
            number = len(sweep.trials)
            sweep = self._add_trial(sweep)
            open_jobs += self._advance_trials(sweep, number)
        return sweep

    def _needs_a_trial(self, sweep: Sweep, open_jobs: Sequence[Job]) -> bool:
        if sweep.is_over or sweep.is_complete or any(job.status is JobStatus.QUEUED for job in open_jobs):
            return False
        return sweep.spec.parallelism is None or len(open_jobs) < sweep.spec.parallelism

    def _add_trial(self, sweep: Sweep) -> Sweep:
        """Records the next trial. A trial whose values are not a valid config fails at once."""
        params, error = optuna_study.suggest(sweep), None
        try:
            resolve(sweep.spec.preset, sweep.spec.overrides | params)
        except InvalidInput as refused:
            error = f"bad_config: {refused}"
        return self.sweeps.update(
            sweep.id, partial(sweep_transitions.ask, number=len(sweep.trials), params=params, error=error)
        )

    def _advance_trials(self, sweep: Sweep, from_number: int = 0) -> list[Job]:
        """-> the jobs of its trials that are not over"""
        trials = [trial for trial in sweep.open_trials if trial.number >= from_number]
        return [job for trial in trials if (job := self._advance_trial(sweep, trial)) is not None]

    def _advance_trial(self, sweep: Sweep, trial: Trial) -> Job | None:
        """-> the trial's job while it is not over"""
        job = self._job(sweep, trial)
        if not job.is_over:
            job = self._cancel_if_due(sweep, trial, job)
        if not job.is_over:
            return job
        self._record_result(sweep, self.sweeps.get(sweep.id).trials[trial.number], job)
        return None

    def _job(self, sweep: Sweep, trial: Trial) -> Job:
        """The trial's job, submitted now if it does not exist yet."""
        assert trial.job_id is not None  # a trial without a job is over from the start
        try:
            return self.jobs.get(trial.job_id)
        except UnknownJob:
            spec, changes = sweep.spec, {"id": trial.job_id, "sweep": SweepTrial(id=sweep.id, trial=trial.number)}
            config = resolve(spec.preset, spec.overrides | trial.params)
            make = partial(
                new_job, preset=spec.preset, config=config, dataset=spec.dataset,
                name=f"{sweep.name or sweep.id} #{trial.number}",
            )  # fmt: skip
            self.jobs.create(lambda now: make(now).model_copy(update=changes))
            return self.enqueue(self.jobs.get(trial.job_id))

    def _cancel_if_due(self, sweep: Sweep, trial: Trial, job: Job) -> Job:
        if sweep.stopping:
            return self._cancel(job, f"sweep {sweep.id} is stopped")
        if sweep.spec.pruning and trial.pruned_at is None and self._has_new_value(sweep, job):
            values = intermediate_values(self.jobs.metrics(job.id), sweep, job)
            if optuna_study.should_prune(sweep, trial.number, values):
                change = partial(sweep_transitions.prune, number=trial.number, percent=max(values))
                trial = self.sweeps.update(sweep.id, change).trials[trial.number]
        if trial.pruned_at is None:
            return job
        return self._cancel(job, f"pruned at {trial.pruned_at} % of its budget: worse than the median of its sweep")

    def _has_new_value(self, sweep: Sweep, job: Job) -> bool:
        """Whether a running job has measured the objective since the last call; only then can pruning be due."""
        if job.status is not JobStatus.RUNNING:
            return False
        rows = self.jobs.metrics(job.id, self._judged_nimg.get(job.id, -1))
        if rows:
            self._judged_nimg[job.id] = int(rows[-1]["nimg"])
        return any(sweep.spec.objective.metric in row for row in rows)

    def _cancel(self, job: Job, message: str) -> Job:
        if job.request == "cancel":
            return job
        return self.jobs.update(
            job.id, partial(transitions.request_action, request="cancel"), events=[Event(kind="sweep", message=message)]
        )

    def _record_result(self, sweep: Sweep, trial: Trial, job: Job) -> None:
        """Records the state and the value of a trial whose job is over."""
        self._judged_nimg.pop(job.id, None)
        rows = self.jobs.metrics(job.id)
        tell = partial(
            sweep_transitions.tell, number=trial.number, intermediate_values=intermediate_values(rows, sweep, job)
        )
        if job.status is JobStatus.SUCCEEDED:
            value = self._value(sweep, job, rows)
            if value is None:
                # Every further trial would lack the metric too.
                error = f"job {job.id} succeeded without the metric {sweep.spec.objective.metric!r}; {_columns(rows)}"
                self.sweeps.update(sweep.id, partial(sweep_transitions.give_up, error=error))
                change = partial(tell, state=TrialState.FAILED, error=error)
            else:
                change = partial(tell, state=TrialState.COMPLETE, value=value, model_id=job.model_id)
        elif job.status is JobStatus.CANCELLED and trial.pruned_at is not None:
            change = partial(tell, state=TrialState.PRUNED)
        else:
            error = ": ".join(str(part) for part in (job.status, job.reason, job.error) if part)
            change = partial(tell, state=TrialState.FAILED, error=error)
        self.sweeps.update(sweep.id, change)

    def _value(self, sweep: Sweep, job: Job, rows: Sequence[Metrics]) -> float | None:
        """The objective as measured on the published model, or else the last value in the metrics series."""
        metric = sweep.spec.objective.metric
        try:
            measured = self.registry.get(job.model_id or "").metrics.model_dump()
        except (UnknownModel, CorruptArtifact):
            measured = {}
        value = measured.get(metric)
        if isinstance(value, int | float):
            return float(value)
        return next((row[metric] for row in reversed(rows) if metric in row), None)


def intermediate_values(rows: Sequence[Metrics], sweep: Sweep, job: Job) -> dict[int, float]:
    """The objective by percentage of the budget, rounded to ticks so that batch sizes do not shift it."""
    metric, tick, total = sweep.spec.objective.metric, job.gan_config.tick_nimg, job.gan_config.total_nimg
    return {min(100, round(100 * (row["nimg"] // tick) * tick / total)): row[metric] for row in rows if metric in row}


def _columns(rows: Sequence[Metrics]) -> str:
    return f"its metrics are {', '.join(rows[-1])}" if rows else "it has no metrics series"
