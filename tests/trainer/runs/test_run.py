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
    # Given a run with a checkpoint
    checkpoints = Checkpoints(ArtifactStore(f"file://{tmp_path}"), "run", 1)
    saved = TrainState(small_config(), 10, CPU)
    saved.cur_nimg, saved.metrics = 64, [{"nimg": 64, "loss_d": 1.0}]
    checkpoints.save(64, saved.state_dict())

    # When it resumes with the same config, it continues from there and sends its earlier metrics again
    messages: list[TrainerLine] = []
    same = TrainState(small_config(), 10, CPU)
    restore(same, checkpoints, random_images(), messages.append)
    assert same.cur_nimg == 64
    assert [line.row for line in messages if isinstance(line, MetricsLine)] == saved.metrics
    assert [line.event.kind for line in messages if isinstance(line, EventLine)] == ["resumed"]

    # But another config with the same shapes is refused, and its state does not change
    other = TrainState(small_config(lr=1e-5), 10, CPU)
    with pytest.raises(BadConfig, match="another config"):
        restore(other, checkpoints, random_images(), messages.append)
    assert other.cur_nimg == 0
