"""Responses of /presets."""

from __future__ import annotations

from pydantic import BaseModel

from shared.configs.preset_tables import Preset
from shared.configs.train import TrainConfig


class PresetView(BaseModel):
    """A preset: its config, its parameter counts and the source of each value."""

    name: str
    summary: str
    parameters: dict[str, int]
    config: TrainConfig
    sources: dict[str, str]

    @classmethod
    def of(cls, preset: Preset) -> PresetView:
        return cls(
            name=preset.name, summary=preset.summary, parameters=dict(preset.parameters), config=preset.config,
            sources=dict(preset.sources),
        )  # fmt: skip


class PresetList(BaseModel):
    """All presets."""

    data: list[PresetView]
