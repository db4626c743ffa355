"""Whole sweeps in one process: stores in memory, and workers that only say what training came to."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.api.sweeps import optuna_study
from services.api.sweeps.runner import Sweeper
from shared.jobs import transitions
from shared.jobs.record import Job, JobStatus, Reason, SweepTrial
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelMetrics, ModelRegistry
from shared.sweeps.record import Sweep, SweepStatus, TrialState, new_sweep
from shared.sweeps.transitions import cancel
from tests.shared.examples import a_model, a_plan
from tests.shared.jobs.memory_job_store import MemoryJobStore
from tests.shared.sweeps.memory_sweep_store import MemorySweepStore

Train = Callable[["Lab", Job], Any]


class Lab:
    """A sweeper, and what it works with. `sent` are the jobs it put on the queue."""

    def __init__(self, folder: Path) -> None:
        self.jobs, self.sweeps, self.sent = MemoryJobStore(), MemorySweepStore(), list[str]()
        self.registry = ModelRegistry(ArtifactStore(f"file://{folder}"))
        self.sweeper = self.another_sweeper()

    def another_sweeper(self) -> Sweeper:
        """As in another replica, or after a restart: it knows the stores and nothing else."""
        return Sweeper(self.sweeps, self.jobs, self.registry, self.send)

    def send(self, job: Job) -> Job:
        self.sent.append(job.id)
        return self.jobs.update(job.id, transitions.enqueued)

    def start(self, **plan: Any) -> Sweep:
        return self.sweeper.advance(self.sweeps.create(partial(new_sweep, plan=a_plan(**plan), name="mine"))[0])

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
            sweep = self.sweeper.advance(sweep)
        return sweep


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def badness(job: Job) -> float:
    """Zero at a learning rate of 1e-4."""
    return abs(math.log10(job.gan_config.lr) + 4)


def train_well(lab: Lab, job: Job) -> None:
    lab.report(job, job.gan_config.total_nimg, loss_g=badness(job))
    lab.end(job)


def test_a_sweep_finds_better_values_than_it_began_with(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=20), train_well)

    assert sweep.status is SweepStatus.SUCCEEDED
    assert [trial.state for trial in sweep.trials] == [TrialState.COMPLETE] * 20
    assert sweep.best is not None
    assert sweep.best.value == min(sweep.values.values()) < sweep.trials[0].value  # type: ignore[operator]
    assert len(lab.sent) == len(set(lab.sent)) == 20


def test_trials_are_ordinary_jobs_that_say_where_they_belong(lab: Lab) -> None:
    sweep = lab.start(overrides={"batch_size": 16})

    (trial,) = sweep.trials
    job = lab.jobs.get(trial.job_id or "")
    assert (job.sweep, job.name) == (SweepTrial(id=sweep.id, trial=0), "mine #0")
    assert (job.gan_config.lr, job.config.batch_size) == (trial.params["lr"], 16)


def test_there_is_always_one_trial_waiting_and_no_more(lab: Lab) -> None:
    """So workers are never idle, and each trial is chosen with all that is known by then."""
    sweep = lab.start(n_trials=9)

    for workers in range(4):
        assert len(lab.jobs.waiting(99)) == 1
        assert len(sweep.open_trials) == workers + 1
        lab.claim()
        sweep = lab.sweeper.advance(sweep)


def test_a_limit_is_kept(lab: Lab) -> None:
    sweep = lab.start(n_trials=9, parallelism=2)

    for _ in range(3):
        lab.claim()
        sweep = lab.sweeper.advance(sweep)

    assert len(sweep.open_trials) == 2


def test_the_same_record_gives_the_same_proposal(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=6), train_well)
    unfinished = sweep.model_copy(update={"trials": sweep.trials[:5]})

    assert optuna_study.propose(unfinished) == optuna_study.propose(unfinished)
    assert len({trial.params["lr"] for trial in sweep.trials}) == 6


def test_all_kinds_of_values_go_to_optuna_and_back(lab: Lab) -> None:
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
    assert optuna_study.importances(sweep) == {}  # the learning rate was the same in all, and so was what they came to


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_makes_the_difference_is_the_most_important(lab: Lab, direction: str) -> None:
    space = {
        "flip": {"type": "categorical", "choices": [True, False]},
        "lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    }
    objective = {"metric": "loss_g", "direction": direction}
    found = optuna_study.importances(lab.run(lab.start(n_trials=20, space=space, objective=objective), train_well))

    assert list(found) == ["lr", "flip"]
    assert sum(found.values()) == pytest.approx(1)


# Bad trials


def test_failed_trials_are_not_fatal(lab: Lab) -> None:
    def train(lab: Lab, job: Job) -> None:
        if job.sweep and job.sweep.trial % 2:
            lab.end(job, JobStatus.FAILED, reason=Reason.DIVERGED, error="loss_g is nan")
        else:
            train_well(lab, job)

    sweep = lab.run(lab.start(n_trials=4), train)

    assert sweep.status is SweepStatus.SUCCEEDED
    assert [trial.state for trial in sweep.trials] == [TrialState.COMPLETE, TrialState.FAILED] * 2
    assert sweep.trials[1].error == "failed: diverged: loss_g is nan"


def test_values_that_exclude_each_other_make_no_job(lab: Lab) -> None:
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
    assert "exclude each other" in (refused[0] or "")


def test_an_objective_that_no_job_reports_ends_the_sweep_with_its_first_trial(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=9, objective={"metric": "beauty", "direction": "maximize"}), train_well)

    assert (sweep.status, len(sweep.trials)) == (SweepStatus.FAILED, 1)
    assert "no 'beauty'; there are nimg, loss_g" in (sweep.error or "")


def test_the_models_own_figure_counts_before_the_series(lab: Lab) -> None:
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


def train_until_told(lab: Lab, job: Job) -> None:
    """Reports each quarter of the budget, and looks after each whether it is to stop."""
    assert job.sweep is not None
    for quarter in range(1, 5):
        lab.report(job, job.gan_config.total_nimg * quarter / 4, loss_g=badness(job) + 1 / quarter)
        lab.another_sweeper().advance(lab.sweeps.get(job.sweep.id))
        if lab.jobs.get(job.id).request == "cancel":
            lab.end(job, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)
            return
    lab.end(job)


def test_hopeless_trials_are_stopped_and_the_best_is_not(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=16, pruning=True), train_until_told)

    pruned = [trial for trial in sweep.trials if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(trial.pruned_at is not None and trial.pruned_at < 100 for trial in pruned)
    assert all(max(trial.reported) == trial.pruned_at for trial in pruned)
    assert "% of its budget" in lab.jobs.events(pruned[0].job_id or "")[-1].message
    distances = {trial.number: abs(math.log10(trial.params["lr"]) + 4) for trial in sweep.trials}
    assert sweep.best is not None
    assert distances[sweep.best.number] == min(distances.values())


def test_without_pruning_none_is_stopped(lab: Lab) -> None:
    sweep = lab.run(lab.start(n_trials=16), train_until_told)

    assert {trial.state for trial in sweep.trials} == {TrialState.COMPLETE}


# Interruptions


def test_a_sweep_is_gone_on_with_wherever_it_was_left(lab: Lab) -> None:
    """The API dies after each write in turn; a new one, which knows the stores alone, comes to the same sweep."""

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
            sweep, _ = lab.sweeps.create(partial(new_sweep, plan=a_plan(n_trials=3), name=None))
            original = getattr(store, write)
            setattr(store, write, dying(original, after))
            try:
                sweep = lab.run(lab.sweeper.advance(sweep), train_well)
            except Killed:
                setattr(store, write, original)
                lab.sweeper = lab.another_sweeper()
                sweep = lab.sweeper.advance(lab.sweeps.get(sweep.id))
                for job in lab.jobs.list(JobStatus.RUNNING).jobs:
                    train_well(lab, job)
                sweep = lab.run(lab.sweeper.advance(sweep), train_well)
            finally:
                setattr(store, write, original)

            assert sweep.status is SweepStatus.SUCCEEDED
            assert [trial.state for trial in sweep.trials] == [TrialState.COMPLETE] * 3
            made = [job.sweep.trial for job in lab.jobs.list(limit=999).jobs if job.sweep and job.sweep.id == sweep.id]
            assert sorted(made) == [0, 1, 2]


def test_a_cancelled_sweep_ends_its_jobs(lab: Lab) -> None:
    sweep = lab.start(n_trials=9)
    running = lab.claim()
    assert running is not None
    sweep = lab.sweeper.advance(sweep)

    sweep = lab.sweeper.advance(lab.sweeps.update(sweep.id, cancel))

    # What waited is over at once; what runs is told, and the sweep waits for it
    assert [trial.is_over for trial in sweep.trials] == [False, True]
    assert lab.jobs.get(running.id).request == "cancel"
    lab.end(running, JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)
    assert lab.sweeper.advance(sweep).status is SweepStatus.CANCELLED
    assert lab.jobs.waiting(9) == []
