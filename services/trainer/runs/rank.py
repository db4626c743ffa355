"""Trains in the second and further processes of a run on several devices. They send no messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from services.trainer.distributed.processes import joined
from services.trainer.runs.checkpoint import unpack
from services.trainer.runs.data import config_for, load_images
from services.trainer.runs.device import pick_device
from services.trainer.runs.fresh_state import build_train_state
from services.trainer.training import loop
from shared.configs.train import TrainConfig
from shared.settings import Settings


def describe_run(config: TrainConfig, dataset: str, settings: Settings, devices: Sequence[int]) -> str:
    """JSON from which `train_as_rank` builds the same run."""
    names = {"data", "datasets", "artifacts", "threads", "require_cuda", "fast_paths", "device_images_gb"}
    relevant = settings.model_dump(mode="json", include=names)
    return json.dumps(
        {"config": config.model_dump(), "dataset": dataset, "settings": relevant, "devices": list(devices)}
    )


def train_as_rank(description: str, rank: int, rendezvous: str) -> None:
    """Trains in step with the first process, which sends the initial state, saves and exports."""
    described = json.loads(description)
    settings = Settings(**described["settings"])
    config = TrainConfig.model_validate_json(json.dumps(described["config"]))
    with joined(rank, config.gpus, rendezvous) as ranks:
        device = pick_device(settings, ranks, described["devices"])
        dataset = load_images(config, described["dataset"], settings, device)
        state = build_train_state(config_for(dataset, config), dataset, settings, ranks, _ignore_event)
        state.load_state_dict(unpack(ranks.broadcast_bytes(b"")))
        loop.train(state, dataset, _ignore, lambda: None)


def _ignore(message: loop.Message) -> None:
    pass


def _ignore_event(kind: str, message: str, **data: Any) -> None:
    pass
