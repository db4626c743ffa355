"""A run with a time limit ends on time, with its schedules at their end."""

from __future__ import annotations

from typing import Any

import pytest

from services.trainer.runs.checkpoint import pack, unpack
from services.trainer.training import loop
from services.trainer.training.schedules import CLOSING_S, learning_rate_factor, scheduled_nimg, training_seconds
from services.trainer.training.state import TrainState
from tests.trainer.small import CPU, random_images, small_config

DATASET = random_images(36)


def test_without_a_limit_time_has_no_effect() -> None:
    config = small_config(total_nimg=1000)
    assert training_seconds(config) is None
    assert [scheduled_nimg(config, 400, seconds) for seconds in (0.0, 1e9)] == [400, 400]


@pytest.mark.parametrize(
    ("minutes", "expected_s"), [(10.0, 600 - CLOSING_S), (1.0, 60 - 15)], ids=["room to close", "a quarter at most"]
)
def test_time_is_left_for_the_export(minutes: float, expected_s: float) -> None:
    assert training_seconds(small_config(max_minutes=minutes)) == pytest.approx(expected_s)


def test_schedules_follow_images_or_time_whichever_is_ahead() -> None:
    # Given a budget of 1000 images and 82.5 s of training, and a learning rate that falls over the last half
    config = small_config(total_nimg=1000, max_minutes=110 / 60, lr_tail=0.5)
    limit_s = training_seconds(config)
    assert limit_s is not None
    assert limit_s == pytest.approx(110 - 27.5)
    # Then a fast run follows its images and a slow one the clock, and both end with a rate of zero
    assert scheduled_nimg(config, 600, 0.5 * limit_s) == 600
    assert scheduled_nimg(config, 100, 0.75 * limit_s) == 750
    assert learning_rate_factor(config, scheduled_nimg(config, 100, 0.75 * limit_s)) == pytest.approx(0.5)
    assert scheduled_nimg(config, 100, 2 * limit_s) == 1000
    assert learning_rate_factor(config, scheduled_nimg(config, 100, limit_s + 1)) == 0


def test_a_run_ends_with_its_schedules_when_its_time_is_up() -> None:
    # Given a budget of far more images than fit into 0.9 s
    config = small_config(total_nimg=10**8, max_minutes=0.02, lr_tail=0.5, tick_nimg=8, snapshot_nimg=10**9)
    state = TrainState(config, 10, CPU)
    messages: list[loop.Message] = []
    # When it is trained
    assert loop.train(state, DATASET, messages.append, lambda: None) == "done"
    # Then the time limit ended the run, its rate had fallen, and its last progress is 1
    assert state.cur_nimg < config.total_nimg
    assert state.wall_seconds >= 0.9
    rates = [message.row["lr"] for message in messages if isinstance(message, loop.MetricsMessage)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]
    progress = [message for message in messages if isinstance(message, loop.ProgressMessage)][-1]
    assert (progress.fraction, progress.eta_seconds) == (1.0, 0.0)


def test_the_time_of_earlier_attempts_counts_but_not_the_time_between() -> None:
    # Given a run that left after two thirds of its time
    config = small_config(total_nimg=10**8, max_minutes=10.0)
    limit_s = training_seconds(config)
    assert limit_s is not None
    state = TrainState(config, 10, CPU)
    state.wall_seconds = limit_s * 2 / 3
    saved = unpack(pack(state.state_dict()))
    # When it resumes later, its position is the same
    taken_up = TrainState(config, 10, CPU)
    taken_up.load_state_dict(saved)
    assert taken_up.schedule_nimg == pytest.approx(config.total_nimg * 2 / 3, rel=1e-6)


def test_progress_has_the_time_shares_of_a_step() -> None:
    # Given a short run
    messages: list[Any] = []
    loop.train(TrainState(small_config(total_nimg=64, tick_nimg=16), 10, CPU), DATASET, messages.append, lambda: None)
    # Then its last progress contains the time shares of a step
    last = [message for message in messages if isinstance(message, loop.ProgressMessage)][-1]
    assert last.step_shares is not None
    assert list(last.step_shares) == ["data", "forward", "backward", "optimizer"]
    assert sum(last.step_shares.values()) == pytest.approx(1, abs=0.001)
    assert all(share > 0 for share in last.step_shares.values())
    assert last.device_memory_bytes is None  # measured on GPUs only
