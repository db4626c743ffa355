"""Learning rate, averaging and time limit of a run, as plain functions of the images seen."""

from __future__ import annotations

from shared.configs.train import TrainConfig

EMA_RAMPUP = 0.05  # the half-life never exceeds this share of the images seen (Karras et al. 2022, EDM, training loop)

CLOSING_S = 30.0  # for sampling, parity check and export at the end of a run; part of max_minutes


def training_seconds(config: TrainConfig) -> float | None:
    """Seconds of training after which a run with `max_minutes` must export to end on time. None: no limit."""
    if config.max_minutes is None:
        return None
    budget_s = 60 * config.max_minutes
    return budget_s - min(CLOSING_S, budget_s / 4)


def scheduled_nimg(config: TrainConfig, nimg: int, trained_s: float) -> int:
    """Position of all schedules in images: the run's position by images or by time, whichever is further.

    With `max_minutes` a run that cannot see all its images moves through its schedules by the clock, so that they end
    when the run does. Such a run cannot be repeated to the bit.
    """
    limit_s = training_seconds(config)
    if limit_s is None:
        return nimg
    return max(nimg, min(config.total_nimg, int(config.total_nimg * trained_s / limit_s)))


def learning_rate_factor(config: TrainConfig, nimg: int) -> float:
    """Factor of the base learning rates after `nimg` images: steps, then a linear fall to zero."""
    factor = 1.0
    if config.lr_step_nimg is not None:
        factor *= config.lr_step_factor ** (nimg // config.lr_step_nimg)
    if config.lr_tail > 0:
        remaining = max(0.0, 1 - nimg / config.total_nimg)
        factor *= min(1.0, remaining / config.lr_tail)
    return factor


def ema_decay(config: TrainConfig, nimg: int, batch_nimg: int) -> float:
    """Weight of the old average when a step of `batch_nimg` images is added; 0 copies the current weights."""
    halflife = min(float(config.ema_halflife_nimg), nimg * EMA_RAMPUP)
    return 0.5 ** (batch_nimg / halflife) if halflife > 0 else 0.0
