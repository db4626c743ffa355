"""Complete sweeps in one process, with stores in memory and simulated workers that store metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from services.api.sweeps import optuna_study
from services.api.sweeps.runner import SweepRunner
from shared.jobs import transitions
from shared.jobs.record import Job, JobStatus, Reason, SweepTrial
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelMetrics, ModelRegistry
from shared.sweeps.record import Sweep, SweepStatus, TrialState, new_sweep
from shared.sweeps.transitions import cancel
from tests.shared.examples import a_model, a_spec
from tests.shared.jobs.memory_job_store import MemoryJobStore
from tests.shared.sweeps.memory_sweep_store import MemorySweepStore

Train = Callable[["Lab", Job], Any]


class Lab:
    """A sweep runner with its stores. `sent` holds the ids of the jobs that it enqueued."""

    def __init__(self, folder: Path) -> None:
        self.jobs, self.sweeps, self.sent = MemoryJobStore(), MemorySweepStore(), list[str]()
        self.registry = ModelRegistry(ArtifactStore(f"file://{folder}"))
        self.runner = self.another_runner()

    def another_runner(self) -> SweepRunner:
        """A runner as in another replica or after a restart: it shares the stores only."""
        return SweepRunner(self.sweeps, self.jobs, self.registry, self.send)

    def send(self, job: Job) -> Job:
        self.sent.append(job.id)
        return self.jobs.update(job.id, transitions.enqueued)

    def start(self, **spec: Any) -> Sweep:
        return self.runner.advance(self.sweeps.create(partial(new_sweep, spec=a_spec(**spec), name="mine"))[0])

    def claim(self) -> Job | None:
        waiting = self.jobs.waiting(1)
        return self.jobs.update(waiting[0].id, partial(transitions.claim, worker="w", lease_s=60)) if waiting else None

    def report(self, job: Job, nimg: float, **row: float) -> None:
        self.jobs.update(job.id, lambda job, _: job, [{"nimg": nimg, **row}])

    def end(self, job: Job, status: JobStatus = JobStatus.SUCCEEDED, **how: Any) -> None:
        self.jobs.update(job.id, partial(transitions.finish, fence=job.fence, status=status, **how))

    def run(self, sweep: Sweep, train: Train) -> Sweep:
        """One worker, until the sweep is over."""
        while not sweep.is_over:
            job = self.claim()
            assert job is not None, "the sweep is not over and nothing is in the queue"
            train(self, job)
            sweep = self.runner.advance(sweep)
        return sweep


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def distance(job: Job) -> float:
    """Zero at a learning rate of 1e-4."""
    return abs(math.log10(job.gan_config.lr) + 4)


def train_well(lab: Lab, job: Job) -> None:
    lab.report(job, job.gan_config.total_nimg, loss_g=distance(job))
    lab.end(job)


def test_a_sweep_finds_better_values_than_its_first_trial(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=20), train_well)

    assert sweep.status is SweepStatus.SUCCEEDED
    assert [trial.state for trial in sweep.trials] == [TrialState.COMPLETE] * 20
    assert sweep.best is not None
    assert sweep.best.value == min(sweep.values.values()) < sweep.trials[0].value  # type: ignore[operator]
    assert len(lab.sent) == len(set(lab.sent)) == 20


def test_trials_are_jobs_that_name_their_sweep(lab: Lab) -> None:
    sweep = lab.start(overrides={"batch_size": 16})

    (trial,) = sweep.trials
    job = lab.jobs.get(trial.job_id or "")
    assert (job.sweep, job.name) == (SweepTrial(id=sweep.id, trial=0), "mine #0")
    assert (job.gan_config.lr, job.gan_config.batch_size) == (trial.params["lr"], 16)


def test_exactly_one_trial_waits_in_the_queue(lab: Lab) -> None:
    """So no worker is idle, and each trial is suggested with the results so far."""
    sweep = lab.start(n_trials=9)

    for workers in range(4):
        assert len(lab.jobs.waiting(99)) == 1
        assert len(sweep.open_trials) == workers + 1
        lab.claim()
        sweep = lab.runner.advance(sweep)


def test_parallelism_limits_the_open_trials(lab: Lab) -> None:
    sweep = lab.start(n_trials=9, parallelism=2)

    for _ in range(3):
        lab.claim()
        sweep = lab.runner.advance(sweep)

    assert len(sweep.open_trials) == 2


def test_the_same_record_gives_the_same_suggestion(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=6), train_well)
    unfinished = sweep.model_copy(update={"trials": sweep.trials[:5]})

    assert optuna_study.suggest(unfinished) == optuna_study.suggest(unfinished)
    assert len({trial.params["lr"] for trial in sweep.trials}) == 6


def test_values_of_all_types_pass_through_optuna(lab: Lab) -> None:
    space = {
        "lr_d": {"type": "categorical", "choices": [None, 1e-4]},
        "batch_size": {"type": "int", "low": 16, "high": 100, "step": 16},
        "g_channels": {"type": "categorical", "choices": [[16, 8, 8], [32, 16, 8]]},
        "flip": {"type": "categorical", "choices": [True, False]},
    }
    sweep = lab.run(lab.start(n_trials=12, space=space), train_well)

    assert {trial.params["lr_d"] for trial in sweep.trials} == {None, 1e-4}
    assert {trial.params["flip"] for trial in sweep.trials} == {True, False}
    assert {trial.params["batch_size"] for trial in sweep.trials} <= {16, 32, 48, 64, 80, 96}
    assert [16, 8, 8] in [trial.params["g_channels"] for trial in sweep.trials]
    assert (
        optuna_study.importances(sweep) == {}
    )  # the learning rate, and with it the objective, was the same in all trials


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_field_that_decides_is_the_most_important(lab: Lab, direction: str) -> None:
    space = {
        "flip": {"type": "categorical", "choices": [True, False]},
        "lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    }
    objective = {"metric": "loss_g", "direction": direction}
    importances = optuna_study.importances(
        lab.run(lab.start(n_trials=20, space=space, objective=objective), train_well)
    )

    assert list(importances) == ["lr", "flip"]
    assert sum(importances.values()) == pytest.approx(1)


# Failed trials


def test_a_sweep_survives_failed_trials(lab: Lab) -> None:
    def train(lab: Lab, job: Job) -> None:
        if job.sweep and job.sweep.trial % 2:
            lab.end(job, JobStatus.FAILED, reason=Reason.DIVERGED, error="loss_g is nan")
        else:
            train_well(lab, job)

    sweep = lab.run(lab.start(n_trials=4), train)

    assert sweep.status is SweepStatus.SUCCEEDED
    assert [trial.state for trial in sweep.trials] == [TrialState.COMPLETE, TrialState.FAILED] * 2
    assert sweep.trials[1].error == "failed: diverged: loss_g is nan"


def test_a_trial_with_contradictory_values_gets_no_job(lab: Lab) -> None:
    space = {
        "gp_weight": {"type": "categorical", "choices": [0.0, 10.0]},
        "spectral_norm": {"type": "categorical", "choices": [False, True]},
    }
    sweep = lab.run(lab.start(n_trials=12, space=space), train_well)

    for trial in sweep.trials:
        is_sound = not (trial.params["spectral_norm"] and trial.params["gp_weight"])
        assert (trial.job_id is not None) == (trial.state is TrialState.COMPLETE) == is_sound
    refused = [trial.error for trial in sweep.trials if trial.job_id is None]
    assert refused
    assert "cannot be combined" in (refused[0] or "")


def test_a_sweep_fails_with_its_first_trial_if_its_job_lacks_the_objective(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=9, objective={"metric": "beauty", "direction": "maximize"}), train_well)

    assert (sweep.status, len(sweep.trials)) == (SweepStatus.FAILED, 1)
    assert "without the metric 'beauty'; its metrics are nimg, loss_g" in (sweep.error or "")


def test_the_metric_of_the_published_model_takes_precedence_over_the_series(lab: Lab) -> None:
    def train(lab: Lab, job: Job) -> None:
        lab.report(job, 1000, fid=200.0)
        model = a_model("m").model_copy(update={"metrics": ModelMetrics(fid=50.0)})
        lab.registry.publish(model, {"generator.onnx": b"graph"})
        lab.end(job, model_id="m")

    objective = {"metric": "fid", "direction": "minimize"}
    sweep = lab.run(lab.start(n_trials=1, objective=objective, overrides={"eval_images": 100}), train)

    assert sweep.best is not None
    assert (sweep.best.value, sweep.best.model_id) == (50.0, "m")


# Pruning


def train_until_cancelled(lab: Lab, job: Job) -> None:
    """Reports a metric after each quarter of the budget, and stops when the job is cancelled."""
    assert job.sweep is not None
    for quarter in range(1, 5):
        lab.report(job, job.gan_config.total_nimg * quarter / 4, loss_g=distance(job) + 1 / quarter)
        lab.another_runner().advance(lab.sweeps.get(job.sweep.id))
        if lab.jobs.get(job.id).request == "cancel":
            lab.end(job, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)
            return
    lab.end(job)


def test_bad_trials_are_pruned_and_the_best_is_not(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=16, pruning=True), train_until_cancelled)

    pruned = [trial for trial in sweep.trials if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(trial.pruned_at is not None and trial.pruned_at < 100 for trial in pruned)
    assert all(max(trial.intermediate_values) == trial.pruned_at for trial in pruned)
    assert "% of its budget" in lab.jobs.events(pruned[0].job_id or "")[-1].message
    distances = {trial.number: abs(math.log10(trial.params["lr"]) + 4) for trial in sweep.trials}
    assert sweep.best is not None
    assert distances[sweep.best.number] == min(distances.values())


def test_without_pruning_all_trials_complete(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=16), train_until_cancelled)

    assert {trial.state for trial in sweep.trials} == {TrialState.COMPLETE}


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All Optuna studies that are built."""
    built: list[Any] = []
    create = optuna.create_study

    def counting(*args: Any, **kwargs: Any) -> Any:
        built.append(create(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(optuna, "create_study", counting)
    return built


def test_a_running_trial_is_judged_once_per_reported_value(lab: Lab, studies: list[Any]) -> None:
    # Given a running trial, and a second one that waits
    sweep = lab.start(n_trials=9, pruning=True)
    job = lab.claim()
    assert job is not None
    lab.runner.advance(sweep)
    suggested = len(studies)

    # When several rounds pass without a value, with the same value, and with rows that lack the objective
    for _ in range(3):
        lab.runner.advance(lab.sweeps.get(sweep.id))
    assert len(studies) == suggested
    lab.report(job, 100, loss_g=1.0)
    for _ in range(3):
        lab.runner.advance(lab.sweeps.get(sweep.id))
    assert len(studies) == suggested + 1
    lab.report(job, 200, loss_d=1.0)
    for _ in range(3):
        lab.runner.advance(lab.sweeps.get(sweep.id))
    assert len(studies) == suggested + 1

    # Then the next value leads to one more study
    lab.report(job, 300, loss_g=2.0)
    lab.runner.advance(lab.sweeps.get(sweep.id))
    lab.runner.advance(lab.sweeps.get(sweep.id))
    assert len(studies) == suggested + 2


# Interruptions


def test_a_sweep_continues_after_a_crash_at_any_write(lab: Lab) -> None:
    """The API dies after each write in turn; a new one, with the same stores, completes the same sweep."""

    class Killed(BaseException):
        pass

    def dying(call: Callable[..., Any], after: int) -> Callable[..., Any]:
        calls = 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            result = call(*args, **kwargs)
            calls += 1
            if calls == after:
                raise Killed
            return result

        return counted

    for store, write in ((lab.sweeps, "update"), (lab.jobs, "create"), (lab.jobs, "update")):
        for after in (1, 2, 3):
            sweep, _ = lab.sweeps.create(partial(new_sweep, spec=a_spec(n_trials=3), name=None))
            original = getattr(store, write)
            setattr(store, write, dying(original, after))
            try:
                sweep = lab.run(lab.runner.advance(sweep), train_well)
            except Killed:
                setattr(store, write, original)
                lab.runner = lab.another_runner()
                sweep = lab.runner.advance(lab.sweeps.get(sweep.id))
                for job in lab.jobs.list(JobStatus.RUNNING).jobs:
                    train_well(lab, job)
                sweep = lab.run(lab.runner.advance(sweep), train_well)
            finally:
                setattr(store, write, original)

            assert sweep.status is SweepStatus.SUCCEEDED
            assert [trial.state for trial in sweep.trials] == [TrialState.COMPLETE] * 3
            made = [job.sweep.trial for job in lab.jobs.list(limit=999).jobs if job.sweep and job.sweep.id == sweep.id]
            assert sorted(made) == [0, 1, 2]


def test_cancelling_a_sweep_cancels_its_jobs(lab: Lab) -> None:
    sweep = lab.start(n_trials=9)
    running = lab.claim()
    assert running is not None
    sweep = lab.runner.advance(sweep)

    sweep = lab.runner.advance(lab.sweeps.update(sweep.id, cancel))

    # The waiting job is over at once; the running one gets a cancel request, and the sweep waits for it
    assert [trial.is_over for trial in sweep.trials] == [False, True]
    assert lab.jobs.get(running.id).request == "cancel"
    lab.end(running, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)
    assert lab.runner.advance(sweep).status is SweepStatus.CANCELLED
    assert lab.jobs.waiting(9) == []
