"""Learning rates and averaging, as functions of the images seen."""

from __future__ import annotations

import pytest

from services.trainer.training.schedules import ema_decay, learning_rate_factor
from shared.configs.presets import PRESETS, resolve

EPOCH = 50_000
REPORT_1 = PRESETS["wgan-gp"].config


@pytest.mark.parametrize(
    ("nimg", "expected"),
    [
        (0, 2e-4),
        (30 * EPOCH - 1, 2e-4),
        (30 * EPOCH, 2e-5),
        (60 * EPOCH, 2e-6),
        (90 * EPOCH, 2e-7),
        (100 * EPOCH, 2e-7),
    ],
)
def test_report_1_divides_the_learning_rate_by_ten_every_thirty_epochs(nimg: int, expected: float) -> None:
    assert REPORT_1.lr * learning_rate_factor(REPORT_1, nimg) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("nimg", "expected"), [(0, 1.0), (600, 1.0), (700, 0.75), (800, 0.5), (999, 0.0025), (1000, 0.0), (1100, 0.0)]
)
def test_the_tail_falls_linearly_to_zero_at_the_end_of_the_budget(nimg: int, expected: float) -> None:
    config = resolve("tiny", {"total_nimg": 1000, "lr_tail": 0.4})
    assert learning_rate_factor(config, nimg) == pytest.approx(expected)


def test_steps_and_tail_multiply() -> None:
    config = resolve("tiny", {"total_nimg": 1000, "lr_tail": 0.5, "lr_step_nimg": 250, "lr_step_factor": 0.5})
    assert learning_rate_factor(config, 750) == pytest.approx(0.5**3 * 0.5)


def test_without_steps_and_tail_the_learning_rate_stays() -> None:
    config = resolve("tiny", {"lr_tail": 0.0, "lr_step_nimg": None})
    assert {learning_rate_factor(config, nimg) for nimg in (0, 1, config.total_nimg, 10**9)} == {1.0}


def test_the_average_forgets_half_of_the_past_within_its_halflife() -> None:
    # Given a half-life of 1000 images, long after the start
    config = resolve("tiny", {"ema_halflife_nimg": 1000})
    nimg = 10**6
    # Then one step of a thousand images leaves half, and so do ten steps of a hundred
    assert ema_decay(config, nimg, 1000) == pytest.approx(0.5)
    assert ema_decay(config, nimg, 100) ** 10 == pytest.approx(0.5)
    assert ema_decay(config, nimg, 2000) == pytest.approx(0.25)


def test_early_on_the_halflife_is_a_twentieth_of_the_images_seen() -> None:
    config = resolve("tiny", {"ema_halflife_nimg": 1000})
    assert ema_decay(config, 2000, 100) == pytest.approx(0.5)  # 2000 / 20 = 100
    assert ema_decay(config, 20_000, 1000) == pytest.approx(0.5)  # both rules give the same half-life
    assert ema_decay(config, 0, 100) == 0.0  # no image seen: copy the weights


def test_halflife_zero_means_no_averaging() -> None:
    assert REPORT_1.ema_halflife_nimg == 0
    assert ema_decay(REPORT_1, 10**6, 320) == 0.0
