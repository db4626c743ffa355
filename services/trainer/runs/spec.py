"""Describes one run: its name, preset, config and data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.configs.train import TrainConfig
from shared.settings import Settings


@dataclass(frozen=True)
class RunSpec:
    """One run; `attempt` counts how often it was started."""

    run_id: str
    preset: str
    config: TrainConfig
    dataset: str
    attempt: int = 1


def run_folder(settings: Settings, run_id: str) -> Path:
    """The run's scratch folder on this machine, for its log and export. Resuming elsewhere needs nothing from it."""
    return settings.data / "work" / run_id
