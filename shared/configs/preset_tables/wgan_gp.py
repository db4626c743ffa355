"""The presets of report 1: WGAN-GP on CIFAR-10, unconditional as the report describes it, and class-conditional."""

from __future__ import annotations

from shared.configs.preset_tables import Preset
from shared.configs.train import TrainConfig

REPORT_1 = "report 1 (WGAN-GP on CIFAR-10)"
WGAN_GP_PAPER = "Gulrajani et al. 2017, arXiv:1704.00028"

_WGAN_GP = TrainConfig(
    architecture="dcgan",
    conditional=False,
    latent_dim=100,
    g_channels=(512, 256, 128),
    d_channels=(128, 256, 512),
    loss="wasserstein",
    gp_weight=10.0,
    n_critic=5,
    batch_size=64,
    total_nimg=100 * 50_000,
    lr=2e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    lr_step_nimg=30 * 50_000,
    lr_step_factor=0.1,
    flip=True,
    rotation_degrees=10.0,
    crop_padding=4,
    tick_nimg=50_000,
    snapshot_nimg=10 * 50_000,
)

_WGAN_GP_SOURCES = {
    **dict.fromkeys(_WGAN_GP.model_fields_set - {"conditional"}, REPORT_1),
    "n_critic": f"{WGAN_GP_PAPER}, algorithm 1; the report does not state it",
    "ema_halflife_nimg": "0: report 1 averages no weights",
}

ROWS = (
    Preset(
        name="wgan-gp",
        summary="Report 1 as described: an unconditional WGAN-GP with DCGAN networks, 100 epochs of CIFAR-10.",
        config=_WGAN_GP,
        parameters={"generator": 3_448_576, "discriminator": 2_637_312},
        sources=_WGAN_GP_SOURCES,
    ),
    Preset(
        name="wgan-gp-conditional",
        summary="Report 1 with both networks conditioned on the class.",
        config=_WGAN_GP.model_copy(update={"conditional": True}),
        parameters={"generator": 3_464_704, "discriminator": 2_719_232},
        sources=_WGAN_GP_SOURCES
        | {"conditional": "conditional batch norm (arXiv:1610.07629) and projection (arXiv:1802.05637)"},
    ),
)
