"""Early stopping: when a run ends before its budget, and which model is exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from services.trainer.runs.checkpoint import pack, unpack
from services.trainer.runs.early_stop import EarlyStopping, restore_best
from services.trainer.training.state import TrainState
from tests.trainer.small import CPU, EventLog, small_config

FID: dict[str, Any] = {"metric": "fid", "patience": 2, "minimum": 1.0}
MEASURED: dict[str, Any] = {"eval_images": 10, "eval_every_nimg": 100}


class Run:
    """A run without training: after the n-th measurement all averaged weights are n."""

    def __init__(self, **rule: Any) -> None:
        self.state = TrainState(small_config(**MEASURED, early_stop=FID | rule), 10, CPU)
        self.events = EventLog()
        self.early_stopping = EarlyStopping(self.state, self.events)

    def measure(self, *values: float | None) -> None:
        for value in values:
            self.state.cur_nimg += 100
            figures = {} if value is None else {self.rule_metric: value}
            self.state.metrics.append({"nimg": self.state.cur_nimg, "loss_d": 1.0} | figures)
            for parameter in self.state.ema.parameters():
                parameter.data.fill_(len(self.state.metrics))
            self.early_stopping.on_metrics()

    @property
    def rule_metric(self) -> str:
        assert self.state.config.early_stop is not None
        return self.state.config.early_stop.metric


@pytest.mark.parametrize(
    ("rule", "values", "stops_after", "best"),
    [
        ({}, (50, 40, 30, 20), None, 4),
        ({}, (50, 40, 41, 42), 4, 2),  # lower is better: two measurements without improvement
        ({}, (50, 40, 41, 30, 31, 32), 6, 4),  # an improvement restarts the count
        ({}, (50, 49.5, 49), 3, 1),  # improvements below the minimum do not count
        ({}, (50, 49.5, 48.9), None, 3),  # small improvements add up
        ({}, (50, None, None, 51, None, 52), 6, 1),  # rows without the metric are skipped
        ({"minimum": 0.0}, (50, 49.9, 49.8), None, 3),
        ({"patience": 1}, (50, 60), 2, 1),
        ({"metric": "inception_score", "minimum": 0.1}, (1, 2, 1.9, 2.05), 4, 2),  # higher is better
        ({"metric": "recall", "minimum": 0.0}, (0.1, 0.2, 0.3, 0.3, 0.3), 5, 3),  # an equal value is no improvement
    ],
)
def test_a_run_stops_when_its_metric_has_not_improved_for_as_long_as_its_patience(
    rule: dict[str, Any], values: tuple[float | None, ...], stops_after: int | None, best: int
) -> None:
    run = Run(**rule)
    converged = []
    for value in values:
        run.measure(value)
        converged.append(run.early_stopping.has_converged)
    assert converged == [stops_after is not None and n >= stops_after for n in range(1, len(values) + 1)]
    assert run.events.kinds == ([] if stops_after is None else ["early_stop"])
    assert run.state.best is not None
    assert run.state.best.nimg == 100 * best
    # And the exported model is the best one
    assert restore_best(run.state, run.events) == 100 * best
    assert all(torch.all(parameter == best) for parameter in run.state.ema.parameters())


def test_the_early_stop_event_states_the_metric_and_the_patience() -> None:
    run = Run()
    run.measure(50, 40.25, 41, 42)
    message = (
        "fid was 40.25 after 200 images and has not improved by more than 1 in 2 measurements; training stops here"
    )
    assert run.events == [("early_stop", message)]


def test_a_resumed_run_remembers_its_best_model_and_that_it_has_converged() -> None:
    run = Run()
    run.measure(50, 40, 41, 42)
    again = Run()
    again.state.load_state_dict(unpack(pack(run.state.state_dict())))
    assert EarlyStopping(again.state, again.events).has_converged
    assert restore_best(again.state, again.events) == 200
    assert all(torch.all(parameter == 2) for parameter in again.state.ema.parameters())


def test_without_early_stop_the_last_model_is_exported() -> None:
    run = Run()
    run.state.config = small_config(**MEASURED)
    run.early_stopping = EarlyStopping(run.state, run.events)
    run.state.metrics.append({"nimg": 0, "fid": 1.0})
    run.early_stopping.on_metrics()
    run.state.cur_nimg = 77
    assert (run.state.best, run.early_stopping.has_converged) == (None, False)
    assert restore_best(run.state, run.events) == 77
    assert run.events == []
