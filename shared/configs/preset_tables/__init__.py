"""The rows of the table of presets, a file for each source; shared/configs/presets.py puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.configs.train import TrainConfig


@dataclass(frozen=True)
class Preset:
    """One row of the table: a complete config, where its values come from, and what it builds."""

    name: str
    summary: str
    config: TrainConfig
    parameters: Mapping[str, int]  # of the two networks with ten classes; tests count the real ones
    sources: Mapping[str, str] = field(default_factory=dict)  # field -> where its value comes from
