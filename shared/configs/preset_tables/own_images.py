"""Presets for a user's own images of 64 and 128 pixels, from a few hundred files on."""

from __future__ import annotations

from shared.configs.preset_tables import Preset, changed
from shared.configs.preset_tables.kiln import CPU_PROJECTED, PROJECTED, SEARCH

_CPU_64 = changed(
    CPU_PROJECTED,
    feature_px=64,
    resolution=64,
    g_channels=(256, 128, 64, 32, 16),
    total_nimg=1_000_000,
    snapshot_nimg=50_000,
    eval_images=2_000,
)

_GPU_64 = changed(
    _CPU_64,
    feature_px=128,
    latent_dim=128,
    g_channels=(512, 256, 128, 64, 64),
    d_channels=(128, 128, 128, 128),
    batch_size=64,
    total_nimg=5_000_000,
    max_minutes=None,
    lr=2e-4,
    ema_halflife_nimg=100_000,
    tick_nimg=50_000,
    snapshot_nimg=500_000,
    eval_images=5_000,
)

_GPU_128 = changed(_GPU_64, resolution=128, feature_px=256, g_channels=(512, 512, 256, 128, 64, 32))

_SOURCES = {
    "discriminator": f"{PROJECTED}, section 5: its lead is largest on small data sets; untested here",
    "diffaugment": "Zhao et al. 2020, arXiv:2006.10738: for data sets of a hundred images and more",
    "diffaugment_p": "below 1, so that the generator does not learn it: Karras et al. 2020, arXiv:2006.06676",
    "class_weight": f"{SEARCH}, on CIFAR-10",
    "flip": "false for images whose two sides differ, such as writing",
    "adam_beta1": f"{PROJECTED}, section 4.1",
    "adam_beta2": f"{PROJECTED}, section 4.1",
}
_UNTESTED = {"g_channels": "untested: no GPU was available", "lr": f"{PROJECTED}, section 4.1: 2e-4 for batches of 64"}

ROWS = (
    Preset(
        name="own-images-64-cpu",
        summary="Your own images at 64 pixels, by class, for two hours of two CPU cores.",
        config=_CPU_64,
        parameters={"generator": 912_867, "discriminator": 349_672},
        sources=_SOURCES | {"feature_px": "twice the size takes four times as long in the frozen network"},
    ),
    Preset(
        name="own-images-64",
        summary="Your own images at 64 pixels, by class, for one GPU.",
        config=_GPU_64,
        parameters={"generator": 3_661_891, "discriminator": 2_174_248},
        sources=_SOURCES | _UNTESTED,
    ),
    Preset(
        name="own-images-128",
        summary="Your own images at 128 pixels, by class, for one GPU.",
        config=_GPU_128,
        parameters={"generator": 8_614_851, "discriminator": 3_223_336},
        sources=_SOURCES | _UNTESTED,
    ),
)
