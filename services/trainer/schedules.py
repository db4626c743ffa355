"""Everything that changes during a run, as plain functions of the images seen."""

from __future__ import annotations

from shared.presets import TrainConfig

EMA_RAMPUP = 0.05  # the half-life never exceeds this share of the images seen (Karras et al. 2022, EDM, training loop)


def learning_rate_factor(config: TrainConfig, nimg: int) -> float:
    """What to multiply the base learning rates with after `nimg` images: steps, then a linear fall to zero."""
    factor = 1.0
    if config.lr_step_nimg is not None:
        factor *= config.lr_step_factor ** (nimg // config.lr_step_nimg)
    if config.lr_tail > 0:
        remaining = max(0.0, 1 - nimg / config.total_nimg)
        factor *= min(1.0, remaining / config.lr_tail)
    return factor


def ema_decay(config: TrainConfig, nimg: int, batch_nimg: int) -> float:
    """Weight of the old average when one step of `batch_nimg` images is added; 0 means "no averaging, follow"."""
    halflife = min(float(config.ema_halflife_nimg), nimg * EMA_RAMPUP)
    return 0.5 ** (batch_nimg / halflife) if halflife > 0 else 0.0
