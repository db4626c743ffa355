"""Resuming a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer.runs.checkpoint import Checkpoints, restore
from services.trainer.training.state import TrainState
from shared.errors import BadConfig
from shared.jobs.trainer_messages import EventLine, MetricsLine, TrainerLine
from shared.storage.artifacts import ArtifactStore
from tests.trainer.small import CPU, random_images, small_config


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    # Given a run of which there is a checkpoint
    checkpoints = Checkpoints(ArtifactStore(f"file://{tmp_path}"), "run", 1)
    saved = TrainState(small_config(), 10, CPU)
    saved.cur_nimg, saved.metrics = 64, [{"nimg": 64, "loss_d": 1.0}]
    checkpoints.save(64, saved.state_dict())

    # When the same config is taken up, it goes on from there and tells again what was told
    told: list[TrainerLine] = []
    same = TrainState(small_config(), 10, CPU)
    restore(same, checkpoints, random_images(), told.append)
    assert same.cur_nimg == 64
    assert [line.row for line in told if isinstance(line, MetricsLine)] == saved.metrics
    assert [line.event.kind for line in told if isinstance(line, EventLine)] == ["resumed"]

    # But another one of the same shapes is refused, and stays as it was
    other = TrainState(small_config(lr=1e-5), 10, CPU)
    with pytest.raises(BadConfig, match="another config"):
        restore(other, checkpoints, random_images(), told.append)
    assert other.cur_nimg == 0
