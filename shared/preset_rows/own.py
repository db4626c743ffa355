"""The rows that no report describes: Kiln's own, each value with the experiment or the paper it comes from."""

from __future__ import annotations

from shared.preset_rows import Preset
from shared.train_config import TrainConfig

_TINY = TrainConfig(
    architecture="dcgan",
    conditional=True,
    latent_dim=64,
    g_channels=(128, 96, 64),
    d_channels=(48, 96, 192),
    loss="hinge",
    batch_size=32,
    total_nimg=80_000,
    lr=4e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    lr_tail=0.4,
    ema_halflife_nimg=5_000,
    flip=True,
    tick_nimg=2_000,
    snapshot_nimg=20_000,
    checkpoint_every_s=20.0,
)

_TINY_SOURCES = {
    "lr": "docs/experiments.md, 2026-11-21: 2e-4 leaves the classes indistinct after 66 thousand images",
    "batch_size": "docs/experiments.md, 2026-11-21, run 7: more detail than 64 after as many images",
    "loss": "docs/experiments.md, 2026-11-21, runs 1 and 2: as good as BCE, a little calmer",
    "architecture": "docs/experiments.md, 2026-11-21: more than twice the images per second of small residual networks",
}

ROWS = (
    Preset(
        name="tiny",
        summary="Small, class-conditional, for two CPU cores: classes look different after about three minutes.",
        config=_TINY,
        parameters={"generator": 434_816, "discriminator": 405_312},
        sources=_TINY_SOURCES,
    ),
)
