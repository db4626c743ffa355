"""The rows of the table of presets, one module per source. shared/configs/presets.py joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.configs.train import TrainConfig


@dataclass(frozen=True)
class Preset:
    """One row of the table: a complete config, the sources of its values, and the sizes of its networks."""

    name: str
    summary: str
    config: TrainConfig
    parameters: Mapping[str, int]  # per network, with ten classes; a test counts the real ones
    sources: Mapping[str, str] = field(default_factory=dict)  # field -> source of its value


def changed(base: TrainConfig, **changes: Any) -> TrainConfig:
    """`base` with other values, checked by the rules of all configs."""
    return TrainConfig.model_validate(base.model_dump() | changes)
