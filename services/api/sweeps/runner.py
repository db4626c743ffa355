"""Drives sweeps: proposes trials, makes their jobs, hears what came of them, and stops those that are hopeless.

What there is to do follows from the records alone, and each step is recorded before it is taken: the trial with its
job's id before the job, the verdict before the cancel. So an API may be killed anywhere and another one goes on, and
several replicas may run one each, as with the reaper: whoever comes second finds the step done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from services.api.jobs.submit import send
from services.api.state import AppState
from services.api.sweeps import optuna_study
from shared.configs.presets import resolve
from shared.errors import CorruptArtifact, InvalidInput, StoreUnavailable, UnknownJob, UnknownModel
from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus, SweepTrial, new_job
from shared.jobs.store import JobStore, Metrics
from shared.storage.model_registry import ModelRegistry
from shared.sweeps import transitions as sweep_transitions
from shared.sweeps.record import Sweep, Trial, TrialState
from shared.sweeps.store import SweepStore

log = logging.getLogger("kiln.sweeper")

ROUND_S = 1.0


@dataclass(frozen=True)
class Sweeper:
    """`send` puts a recorded job on the queue; the reaper makes up for it when it does not come to that."""

    sweeps: SweepStore
    jobs: JobStore
    registry: ModelRegistry
    send: Callable[[Job], Job]

    def advance_all(self) -> None:
        """One round over all sweeps that are not over. Raises StoreUnavailable."""
        for sweep in self.sweeps.open():
            try:
                self.advance(sweep)
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("sweep %s: this round failed; the next one comes", sweep.id)

    def advance(self, sweep: Sweep) -> Sweep:
        """Does what there is to do now, and returns the sweep as it is then."""
        at_work = self._look_after_all(sweep)
        sweep = self.sweeps.get(sweep.id)
        # A trial waits in the queue whenever none does: so no worker is idle, and none is proposed before it must be.
        while self._has_room(sweep, at_work):
            number = len(sweep.trials)
            sweep = self._propose(sweep)
            at_work += self._look_after_all(sweep, number)
        return sweep

    def _has_room(self, sweep: Sweep, at_work: Sequence[Job]) -> bool:
        if sweep.is_over or sweep.is_complete or any(job.status is JobStatus.QUEUED for job in at_work):
            return False
        return sweep.plan.parallelism is None or len(at_work) < sweep.plan.parallelism

    def _propose(self, sweep: Sweep) -> Sweep:
        """Records the next trial; one whose values exclude each other is over at once."""
        params, error = optuna_study.propose(sweep), None
        try:
            resolve(sweep.plan.preset, sweep.plan.overrides | params)
        except InvalidInput as refused:
            error = f"bad_config: {refused}"
        return self.sweeps.update(
            sweep.id, partial(sweep_transitions.ask, number=len(sweep.trials), params=params, error=error)
        )

    def _look_after_all(self, sweep: Sweep, from_number: int = 0) -> list[Job]:
        """-> the jobs of its trials that are not over"""
        trials = [trial for trial in sweep.open_trials if trial.number >= from_number]
        return [job for trial in trials if (job := self._look_after(sweep, trial)) is not None]

    def _look_after(self, sweep: Sweep, trial: Trial) -> Job | None:
        """Brings a trial that is not over a step further. -> its job, while that is not over"""
        job = self._job(sweep, trial)
        if not job.is_over:
            job = self._stop_if_need_be(sweep, trial, job)
        if not job.is_over:
            return job
        self._tell(sweep, self.sweeps.get(sweep.id).trials[trial.number], job)
        return None

    def _job(self, sweep: Sweep, trial: Trial) -> Job:
        """The trial's job, made now if it is not there yet."""
        assert trial.job_id is not None  # or it would have been over from the start
        try:
            return self.jobs.get(trial.job_id)
        except UnknownJob:
            plan, changes = sweep.plan, {"id": trial.job_id, "sweep": SweepTrial(id=sweep.id, trial=trial.number)}
            config = resolve(plan.preset, plan.overrides | trial.params)
            make = partial(
                new_job, preset=plan.preset, config=config, dataset=plan.dataset,
                name=f"{sweep.name or sweep.id} #{trial.number}",
            )  # fmt: skip
            self.jobs.create(lambda now: make(now).model_copy(update=changes))
            return self.send(self.jobs.get(trial.job_id))

    def _stop_if_need_be(self, sweep: Sweep, trial: Trial, job: Job) -> Job:
        if sweep.stopping:
            return self._cancel(job, f"sweep {sweep.id} is stopped")
        if sweep.plan.pruning and trial.pruned_at is None and job.status is JobStatus.RUNNING:
            reported = reports_of(self.jobs.metrics(job.id), sweep, job)
            if reported and optuna_study.should_prune(sweep, trial.number, reported):
                change = partial(sweep_transitions.prune, number=trial.number, percent=max(reported))
                trial = self.sweeps.update(sweep.id, change).trials[trial.number]
        if trial.pruned_at is None:
            return job
        return self._cancel(job, f"pruned after {trial.pruned_at} % of its budget: worse than the median of its sweep")

    def _cancel(self, job: Job, why: str) -> Job:
        if job.request == "cancel":
            return job
        return self.jobs.update(
            job.id, partial(transitions.request_action, request="cancel"), events=[Event(kind="sweep", message=why)]
        )

    def _tell(self, sweep: Sweep, trial: Trial, job: Job) -> None:
        """The job is over: what that means for its trial."""
        rows = self.jobs.metrics(job.id)
        told = partial(sweep_transitions.tell, number=trial.number, reported=reports_of(rows, sweep, job))
        if job.status is JobStatus.SUCCEEDED:
            value = self._value(sweep, job, rows)
            if value is None:
                # So it would go with every further trial.
                error = f"job {job.id} succeeded and reported no {sweep.plan.objective.metric!r}; {_columns(rows)}"
                self.sweeps.update(sweep.id, partial(sweep_transitions.give_up, error=error))
                change = partial(told, state=TrialState.FAILED, error=error)
            else:
                change = partial(told, state=TrialState.COMPLETE, value=value, model_id=job.model_id)
        elif job.status is JobStatus.CANCELLED and trial.pruned_at is not None:
            change = partial(told, state=TrialState.PRUNED)
        else:
            error = ": ".join(str(part) for part in (job.status, job.reason, job.error) if part)
            change = partial(told, state=TrialState.FAILED, error=error)
        self.sweeps.update(sweep.id, change)

    def _value(self, sweep: Sweep, job: Job, rows: Sequence[Metrics]) -> float | None:
        """What was measured of the model itself, or else the last of what was reported in training."""
        metric = sweep.plan.objective.metric
        try:
            figures = self.registry.get(job.model_id or "").metrics.model_dump()
        except (UnknownModel, CorruptArtifact):
            figures = {}
        value = figures.get(metric)
        if isinstance(value, int | float):
            return float(value)
        return next((row[metric] for row in reversed(rows) if metric in row), None)


def sweeper_of(state: AppState) -> Sweeper:
    return Sweeper(state.sweeps, state.store, state.registry, partial(send, state=state))


def advance_now(sweep: Sweep, state: AppState) -> Sweep:
    """One round at once, for who waits for an answer. The sweep is recorded: what fails now is done later."""
    try:
        return sweep if sweep.is_over else sweeper_of(state).advance(sweep)
    except StoreUnavailable as error:
        log.warning("sweep %s is recorded and will go on later: %s", sweep.id, error)
        return sweep


def reports_of(rows: Sequence[Metrics], sweep: Sweep, job: Job) -> dict[int, float]:
    """The objective in a metrics series by the share of the budget in percent, which batch sizes do not shift."""
    metric, tick, total = sweep.plan.objective.metric, job.gan_config.tick_nimg, job.gan_config.total_nimg
    return {min(100, round(100 * (row["nimg"] // tick) * tick / total)): row[metric] for row in rows if metric in row}


def _columns(rows: Sequence[Metrics]) -> str:
    return f"there are {', '.join(rows[-1])}" if rows else "it has no metrics series"
