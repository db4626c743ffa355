"""Sweeps: the transitions of their records, the validation of search spaces, and one contract for both stores."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.errors import IdempotencyMismatch, InvalidInput, UnknownSweep
from shared.storage.redis import Idempotency
from shared.sweeps.record import Parameter, Sweep, SweepSpec, SweepStatus, TrialState, new_sweep
from shared.sweeps.store import RedisSweepStore, SweepStore
from shared.sweeps.transitions import ask, cancel, give_up, prune, tell
from shared.sweeps.validation import check_spec
from tests.shared.examples import NOW, a_spec
from tests.shared.sweeps.memory_sweep_store import MemorySweepStore

LR = {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}
FID = {"metric": "fid", "direction": "minimize"}


def a_sweep(**changes: Any) -> Sweep:
    return new_sweep(NOW, spec=a_spec(**changes), name=None)


def with_trials(count: int, **changes: Any) -> Sweep:
    sweep = a_sweep(n_trials=count, **changes)
    for number in range(count):
        sweep = ask(sweep, NOW, number=number, params={"lr": 1e-4})
    return sweep


# Transitions


def test_a_sweep_is_over_with_the_last_of_its_trials() -> None:
    sweep = with_trials(2)
    assert sweep.is_complete

    sweep = tell(sweep, NOW, number=0, state=TrialState.COMPLETE, value=2.0)
    assert not sweep.is_over

    sweep = tell(sweep, NOW, number=1, state=TrialState.FAILED, error="diverged")
    assert (sweep.status, sweep.finished_at) == (SweepStatus.SUCCEEDED, NOW)


def test_a_trial_number_is_used_once() -> None:
    first = ask(a_sweep(), NOW, number=0, params={"lr": 1e-4})

    assert ask(first, NOW, number=0, params={"lr": 1e-3}) == first
    assert len(ask(first, NOW, number=1, params={"lr": 1e-3}).trials) == 2
    assert len(ask(with_trials(2), NOW, number=2, params={"lr": 1e-3}).trials) == 2


def test_the_first_result_of_a_trial_remains() -> None:
    sweep = tell(with_trials(1), NOW, number=0, state=TrialState.COMPLETE, value=1.0)

    assert tell(sweep, NOW, number=0, state=TrialState.FAILED) == sweep
    assert prune(sweep, NOW, number=0, percent=50) == sweep


def test_a_sweep_without_any_value_has_failed() -> None:
    sweep = ask(a_sweep(n_trials=1), NOW, number=0, params={"lr": 1e-4}, error="bad_config: no")

    assert (sweep.status, sweep.error) == (SweepStatus.FAILED, "no trial has a value; each trial gives its reason")


@pytest.mark.parametrize(
    ("stop", "status"), [(cancel, SweepStatus.CANCELLED), (partial(give_up, error="why"), SweepStatus.FAILED)]
)
def test_a_stopped_sweep_waits_for_its_open_trials_and_starts_no_more(stop: Any, status: SweepStatus) -> None:
    sweep = ask(a_sweep(n_trials=9), NOW, number=0, params={"lr": 1e-4})

    stopped = stop(sweep, NOW)
    assert stop(stopped, NOW) == stopped
    assert not stopped.is_over
    assert ask(stopped, NOW, number=1, params={"lr": 1e-4}) == stopped
    assert tell(stopped, NOW, number=0, state=TrialState.COMPLETE, value=1.0).status is status
    assert stop(a_sweep(), NOW).status is status  # with nothing open it is over at once


@pytest.mark.parametrize(("direction", "best"), [("minimize", 2), ("maximize", 1)])
def test_the_best_trial_follows_the_direction(direction: str, best: int) -> None:
    sweep = with_trials(4, objective={"metric": "loss_g", "direction": direction})
    for number, value in enumerate([0.0, 3.0, -1.0]):
        sweep = tell(sweep, NOW, number=number, state=TrialState.COMPLETE, value=value)

    assert sweep.best is not None
    assert sweep.best.number == best


def test_a_record_survives_json() -> None:
    sweep = tell(with_trials(1), NOW, number=0, state=TrialState.PRUNED, intermediate_values={25: 1.5})

    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep


# Search spaces


@pytest.mark.parametrize(
    ("space", "field", "value"),
    [
        ({"learning_rate": LR}, "space.learning_rate", "float"),
        ({"lr": LR | {"high": 2.0}}, "space.lr.high", 2.0),
        ({"lr": LR | {"low": 0.0, "log": False}}, "space.lr.low", 0.0),
        ({"batch_size": {"type": "float", "low": 16.5, "high": 32.0}}, "space.batch_size.low", 16.5),
        ({"batch_size": {"type": "int", "low": 1, "high": 32}}, "space.batch_size.low", 1),
        ({"loss": {"type": "categorical", "choices": ["hinge", "lsgan"]}}, "space.loss.choices.1", "lsgan"),
        ({"loss": {"type": "categorical", "choices": ["bce", "bce"]}}, "space.loss.choices", ["bce", "bce"]),
        ({"flip": {"type": "categorical", "choices": [True]}}, "space.flip", "categorical"),
        ({"g_channels": {"type": "categorical", "choices": [[8, 8]]}}, "space.g_channels", (8, 8)),
    ],
)
def test_a_search_space_with_an_invalid_value_is_refused(space: dict[str, Any], field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_spec(a_spec(space=space, overrides={"flip": True}))

    assert [(problem.field, problem.value) for problem in refused.value.problems] == [(field, value)]


@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "float", "low": 2.0, "high": 1.0},
        {"type": "float", "low": 0.0, "high": 1.0, "log": True},
        {"type": "float", "low": float("nan"), "high": 1.0},
        {"type": "int", "low": 1, "high": 9, "log": True, "step": 2},
        {"type": "int", "low": 1, "high": 2.5},
        {"type": "categorical", "choices": []},
        {"type": "normal", "mean": 0},
    ],
)
def test_an_impossible_range_is_refused(parameter: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Parameter).validate_python(parameter)


def test_fixed_values_are_checked_too() -> None:
    with pytest.raises(InvalidInput, match=r"overrides\.batch_size"):
        check_spec(a_spec(overrides={"batch_size": 0}))


def test_a_search_space_may_contain_values_that_fit_only_together() -> None:
    space = {
        "architecture": {"type": "categorical", "choices": ["dcgan", "resnet"]},
        "g_channels": {"type": "categorical", "choices": [[8, 8, 8], [8, 8, 8, 8]]},
    }
    assert check_spec(a_spec(space=space)).g_channels == (8, 8, 8)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"objective": FID}, "objective.metric"),
        ({"objective": {"metric": "loss_gg", "direction": "minimize"}}, "objective.metric"),
        ({"objective": FID, "overrides": {"eval_images": 100}, "pruning": True}, "pruning"),
    ],
)
def test_an_objective_that_is_not_measured_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_spec(a_spec(**changes))

    assert [problem.field for problem in refused.value.problems] == [field]


# One contract, two stores


@pytest.fixture(params=["redis", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[SweepStore]:
    store = MemorySweepStore() if request.param == "memory" else RedisSweepStore(request.getfixturevalue("redis_url"))
    yield store
    store.close()


def make(spec: SweepSpec) -> Any:
    return partial(new_sweep, spec=spec, name=None)


def test_sweeps_are_stored_listed_and_filtered_by_whether_they_are_open(store: SweepStore) -> None:
    first, second, third = (store.create(make(a_spec()))[0] for _ in range(3))
    store.update(second.id, cancel)

    assert store.get(first.id) == first
    assert [sweep.id for sweep in store.open()] == [first.id, third.id]
    page = store.list(limit=2)
    assert ([sweep.id for sweep in page.sweeps], page.has_more) == ([third.id, second.id], True)
    rest = store.list(after=second.id, limit=2)
    assert ([sweep.id for sweep in rest.sweeps], rest.has_more) == ([first.id], False)


def test_an_unknown_sweep_raises(store: SweepStore) -> None:
    with pytest.raises(UnknownSweep):
        store.get("nothing")
    with pytest.raises(UnknownSweep):
        store.update("nothing", cancel)


def test_one_key_creates_one_sweep(store: SweepStore) -> None:
    first, is_new = store.create(make(a_spec()), Idempotency("k", "d"))
    again, is_new_again = store.create(make(a_spec()), Idempotency("k", "d"))

    assert (is_new, is_new_again) == (True, False)
    assert again == first
    with pytest.raises(IdempotencyMismatch):
        store.create(make(a_spec()), Idempotency("k", "other"))


def test_concurrent_writers_lose_no_trial(store: SweepStore) -> None:
    sweep, _ = store.create(make(a_spec(n_trials=8)))

    def add(_: int) -> None:
        store.update(sweep.id, lambda sweep, now: ask(sweep, now, number=len(sweep.trials), params={"lr": 1e-4}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))

    assert [trial.number for trial in store.get(sweep.id).trials] == list(range(8))
