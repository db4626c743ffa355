"""Kiln's own presets. Each value names the experiment or the paper that it comes from."""

from __future__ import annotations

from shared.configs.preset_tables import Preset
from shared.configs.train import TrainConfig

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
    "lr": "docs/explanation/experiments.md, 2026-11-21: 2e-4 leaves the classes indistinct after 66 thousand images",
    "batch_size": "docs/explanation/experiments.md, 2026-11-21, run 7: more detail than 64 after as many images",
    "loss": "docs/explanation/experiments.md, 2026-11-21, runs 1 and 2: as good as BCE, with a slightly steadier loss",
    "architecture": "docs/explanation/experiments.md, 2026-11-21: over twice the images/s of small residual networks",
}

_CPU_HOURS = TrainConfig(
    architecture="resnet",
    conditional=True,
    latent_dim=64,
    g_channels=(128, 64, 32, 32),
    d_channels=(32, 64, 128),
    spectral_norm=True,
    loss="hinge",
    class_weight=2.0,
    batch_size=32,
    total_nimg=2_000_000,
    max_minutes=120.0,
    lr=3e-4,
    lr_d=6e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    lr_tail=0.4,
    ema_halflife_nimg=20_000,
    precision="bf16",
    flip=True,
    tick_nimg=10_000,
    snapshot_nimg=100_000,
    eval_images=50_000,
)

FROM_SCRATCH = "docs/explanation/experiments.md, 2026-11-24"
_CPU_HOURS_SOURCES = {
    "architecture": f"{FROM_SCRATCH}: higher class accuracy than DCGAN after equal training time, where bf16 is fast",
    "g_channels": f"{FROM_SCRATCH}: 0.035 GFLOP (multiply-adds) per image",
    "d_channels": f"{FROM_SCRATCH}: 1.5 times the width is slower and no better after equal training time",
    "class_weight": f"{FROM_SCRATCH}: class accuracy 0.51 with 2 and 0.33 with 0.5, after 40 thousand images; the "
    "loss of Odena et al. 2017, arXiv:1610.09585, in addition to the projection",
    "batch_size": f"{FROM_SCRATCH}: better than 64 after equal training time, early in the run",
    "lr": f"{FROM_SCRATCH}: twice the rates learn faster at first; these stay stable for 1.2 million images",
    "lr_d": f"{FROM_SCRATCH}, and two time scales as in Heusel et al. 2017, arXiv:1706.08500",
}

CPU_PROJECTED = TrainConfig(
    architecture="resnet",
    discriminator="projected",
    conditional=True,
    latent_dim=64,
    g_channels=(256, 128, 64, 32),
    d_channels=(64, 64, 64, 64),
    spectral_norm=True,
    loss="hinge",
    class_weight=0.3,
    batch_size=32,
    g_batch="shared",
    total_nimg=2_000_000,
    max_minutes=120.0,
    lr=3e-4,
    adam_beta1=0.0,
    adam_beta2=0.99,
    lr_tail=0.3,
    ema_halflife_nimg=20_000,
    precision="bf16",
    flip=True,
    diffaugment=("translation", "cutout"),
    diffaugment_p=0.7,
    tick_nimg=10_000,
    snapshot_nimg=100_000,
    eval_images=10_000,
)

SEARCH = "docs/explanation/experiments.md, 2026-11-25"
PROJECTED = "Projected GANs, Sauer et al. 2021, arXiv:2111.01007"
_CPU_PROJECTED_SOURCES = {
    "discriminator": f"{SEARCH}: in less CPU time than cpu-hours, a lower FID in ImageNet's features and a higher one "
    "in the classifier's",
    "g_channels": f"{SEARCH}: three times the weights of the former preset",
    "d_channels": f"{SEARCH}: one head per scale of {PROJECTED}, narrower",
    "class_weight": f"{SEARCH}: lower FID and as much recall as without a class loss, after 120 thousand images",
    "batch_size": f"{SEARCH}: lower FID and more recall than 64 after equal CPU time",
    "g_batch": f"{SEARCH}: saves a pass of the generator and of the frozen network per step",
    "lr": f"{SEARCH}; the paper has 2e-4 for batches of 64",
    "adam_beta1": f"{PROJECTED}, section 4.1",
    "adam_beta2": f"{PROJECTED}, section 4.1",
    "diffaugment": f"{PROJECTED}, section 4.1, has DiffAugment with colour too; see {SEARCH}",
    "diffaugment_p": "below 1, so that the generator does not learn it: Karras et al. 2020, arXiv:2006.06676",
}

BIGGAN = "BigGAN, Brock et al. 2019, arXiv:1809.11096"
BIGGAN_CODE = "BigGAN's authors' settings for CIFAR-10 (github.com/ajbrock/BigGAN-PyTorch)"
SNGAN = "SNGAN, Miyato et al. 2018, arXiv:1802.05957"

_BEST = TrainConfig(
    architecture="resnet",
    conditional=True,
    latent_dim=128,
    g_channels=(256, 256, 256, 256),
    d_channels=(256, 256, 256, 256),
    d_halvings=2,
    spectral_norm=True,
    loss="hinge",
    n_critic=4,
    batch_size=64,
    total_nimg=25_000_000,
    lr=2e-4,
    adam_beta1=0.5,
    adam_beta2=0.999,
    lr_tail=0.4,
    ema_halflife_nimg=1_000_000,
    precision="bf16",
    flip=True,
    tick_nimg=50_000,
    snapshot_nimg=1_000_000,
    eval_images=50_000,
    eval_every_nimg=2_500_000,
)

_BEST_SOURCES = {
    "architecture": f"{BIGGAN}: residual, conditional batch norm, orthogonal initial weights",
    "latent_dim": f"{SNGAN}, table 4",
    "g_channels": f"{SNGAN}, table 4: 256 at each resolution; {BIGGAN_CODE} have the same",
    "d_channels": f"{BIGGAN_CODE}: as wide as the generator; {SNGAN}, table 4, has 128",
    "d_halvings": f"{SNGAN}, table 4: two blocks halve the image, two keep 8x8 pixels",
    "spectral_norm": f"{SNGAN}, eq. 8; in the discriminator only, as in the paper",
    "loss": f"{SNGAN}, eq. 16-17, and the class by projection (Miyato and Koyama 2018, arXiv:1802.05637, eq. 3)",
    "class_weight": "0: the projection alone, as in both papers; the value of cpu-hours is untested at this budget",
    "n_critic": f"{BIGGAN_CODE}: 4; {SNGAN}: 5",
    "batch_size": f"{SNGAN}: 64; {BIGGAN_CODE}: 50",
    "total_nimg": f"{BIGGAN_CODE}: 500 epochs of 50,000 images",
    "lr": f"{SNGAN}, table 1, setting C; {BIGGAN_CODE} too",
    "adam_beta1": f"{SNGAN}, table 1, setting C",
    "adam_beta2": f"{SNGAN}, table 1, setting C",
    "lr_tail": "falls to zero at the end, as in SNGAN; over the last 40 %, as in the other presets",
    "ema_halflife_nimg": f"{BIGGAN_CODE}: 0.9999 per generator step, 1.8 million images at this batch size; "
    "shorter here, because the falling learning rate averages too",
    "flip": "no other augmentation; DiffAugment (Zhao et al. 2020, arXiv:2006.10738) helps long runs or little data",
}

ROWS = (
    Preset(
        name="tiny",
        summary="Small and class-conditional, for two CPU cores: classes become distinct after about three minutes.",
        config=_TINY,
        parameters={"generator": 434_816, "discriminator": 405_312},
        sources=_TINY_SOURCES,
    ),
    Preset(
        name="cpu-hours",
        summary="Residual and class-conditional, for two CPU cores and two hours. models/starter was trained with it.",
        config=_CPU_HOURS,
        parameters={"generator": 309_411, "discriminator": 300_267},
        sources=_CPU_HOURS_SOURCES,
    ),
    Preset(
        name="cpu-hours-projected",
        summary="With a projected discriminator: more variety than cpu-hours, less distinct classes.",
        config=CPU_PROJECTED,
        parameters={"generator": 904_899, "discriminator": 349_672},
        sources=_CPU_PROJECTED_SOURCES,
    ),
    Preset(
        name="best",
        summary="BigGAN-like and class-conditional, with the literature's best choices for 32x32 pixels, for one GPU.",
        config=_BEST,
        parameters={"generator": 4_304_387, "discriminator": 4_207_361},
        sources=_BEST_SOURCES,
    ),
)
