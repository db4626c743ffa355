"""When a run is done before its budget, and which model is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from services.trainer.runs.checkpoint import pack, unpack
from services.trainer.runs.early_stop import Convergence, take_best
from services.trainer.training.state import TrainState
from tests.trainer.small import CPU, small_config

FID: dict[str, Any] = {"metric": "fid", "patience": 2, "minimum": 1.0}
MEASURED: dict[str, Any] = {"eval_images": 10, "eval_every_nimg": 100}


class Run:
    """A run of which only the measurements matter: after the n-th, the averaged weights all are n."""

    def __init__(self, **rule: Any) -> None:
        self.state = TrainState(small_config(**MEASURED, early_stop=FID | rule), 10, CPU)
        self.told: list[tuple[str, str]] = []
        self.convergence = Convergence(self.state, self.tell)

    def tell(self, kind: str, message: str, **data: object) -> None:
        self.told.append((kind, message))

    def measure(self, *values: float | None) -> None:
        for value in values:
            self.state.cur_nimg += 100
            figures = {} if value is None else {self.rule_metric: value}
            self.state.metrics.append({"nimg": self.state.cur_nimg, "loss_d": 1.0} | figures)
            for parameter in self.state.ema.parameters():
                parameter.data.fill_(len(self.state.metrics))
            self.convergence.look()

    @property
    def rule_metric(self) -> str:
        assert self.state.config.early_stop is not None
        return self.state.config.early_stop.metric


@pytest.mark.parametrize(
    ("rule", "values", "stops_after", "best"),
    [
        ({}, (50, 40, 30, 20), None, 4),
        ({}, (50, 40, 41, 42), 4, 2),  # less is better: two without improvement
        ({}, (50, 40, 41, 30, 31, 32), 6, 4),  # one is not enough, and an improvement starts the count anew
        ({}, (50, 49.5, 49), 3, 1),  # improvements below the minimum are none
        ({}, (50, 49.5, 48.9), None, 3),  # but small ones add up
        ({}, (50, None, None, 51, None, 52), 6, 1),  # rows without the figure do not count
        ({"minimum": 0.0}, (50, 49.9, 49.8), None, 3),
        ({"patience": 1}, (50, 60), 2, 1),
        ({"metric": "inception_score", "minimum": 0.1}, (1, 2, 1.9, 2.05), 4, 2),  # more is better
        ({"metric": "recall", "minimum": 0.0}, (0.1, 0.2, 0.3, 0.3, 0.3), 5, 3),  # as good is not better
    ],
)
def test_a_run_stops_when_its_figure_has_not_improved_for_long_enough(
    rule: dict[str, Any], values: tuple[float | None, ...], stops_after: int | None, best: int
) -> None:
    run = Run(**rule)
    reached = []
    for value in values:
        run.measure(value)
        reached.append(run.convergence.is_reached)
    assert reached == [stops_after is not None and n >= stops_after for n in range(1, len(values) + 1)]
    assert [kind for kind, _ in run.told] == ([] if stops_after is None else ["early_stop"])
    assert run.state.best is not None
    assert run.state.best.nimg == 100 * best
    # And what is exported is the model as it was then
    assert take_best(run.state, run.tell) == 100 * best
    assert all(torch.all(parameter == best) for parameter in run.state.ema.parameters())


def test_the_event_says_why() -> None:
    run = Run()
    run.measure(50, 40.25, 41, 42)
    message = (
        "fid was 40.25 after 200 images and has not improved by more than 1 in 2 measurements; training stops here"
    )
    assert run.told == [("early_stop", message)]


def test_a_run_that_is_taken_up_again_knows_its_best_model_and_that_it_is_done() -> None:
    run = Run()
    run.measure(50, 40, 41, 42)
    again = Run()
    again.state.load_state_dict(unpack(pack(run.state.state_dict())))
    assert Convergence(again.state, again.tell).is_reached
    assert take_best(again.state, again.tell) == 200
    assert all(torch.all(parameter == 2) for parameter in again.state.ema.parameters())


def test_without_the_rule_nothing_is_kept_and_the_last_model_is_exported() -> None:
    run = Run()
    run.state.config = small_config(**MEASURED)
    run.convergence = Convergence(run.state, run.tell)
    run.state.metrics.append({"nimg": 0, "fid": 1.0})
    run.convergence.look()
    run.state.cur_nimg = 77
    assert (run.state.best, run.convergence.is_reached) == (None, False)
    assert take_best(run.state, run.tell) == 77
    assert run.told == []
