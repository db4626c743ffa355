"""The table of presets, and `resolve(preset, overrides)`, which makes a complete config from one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.configs.overrides import validate_overrides
from shared.configs.preset_tables import Preset, keras_dcgan, kiln, own_images, per_class, wgan_gp
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput, did_you_mean

PRESETS: dict[str, Preset] = {
    row.name: row for row in (*wgan_gp.ROWS, *keras_dcgan.ROWS, *per_class.ROWS, *kiln.ROWS, *own_images.ROWS)
}


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises InvalidInput, which lists the known names."""
    preset = PRESETS.get(name)
    if preset is None:
        message = f"unknown preset; choose one of {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}"
        raise InvalidInput.of("preset", name, message)
    return preset


def resolve(preset: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """The preset's config with some values replaced.

    Raises InvalidInput with one problem per wrong value; fields are named `overrides.<field>`.
    """
    return validate_overrides(TrainConfig, overrides, base=find_preset(preset).config.model_dump())
