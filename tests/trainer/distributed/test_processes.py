"""Two processes with half of each batch compute the result of one process with the full batch (CPU, gloo)."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from services.trainer.distributed.processes import joined
from services.trainer.runs.checkpoint import Checkpoints
from services.trainer.runs.run import run
from services.trainer.runs.spec import RunSpec
from shared.configs.presets import resolve
from shared.errors import InvalidInput, TrainingFailed
from shared.jobs.trainer_messages import EventLine, MetricsLine, TrainerLine
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from tests.processes import small_overrides, write_color_dataset
from tests.trainer.small import small_config

ONE_STEP = {"total_nimg": 16, "n_critic": 1, "tick_nimg": 16, "snapshot_nimg": 10**9, "batch_size": 16}


@pytest.fixture
def alone(tmp_path: Path) -> Settings:
    write_color_dataset(tmp_path / "datasets")
    return Settings(data=tmp_path / "data", datasets=tmp_path / "datasets", threads=1)


def end_of(settings: Settings, preset: str, gpus: int, **more: Any) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """The last checkpoint of a run, and its metrics."""
    lines: list[TrainerLine] = []
    config = resolve(preset, small_overrides(**ONE_STEP) | {"gpus": gpus} | more)
    name = f"{preset}-{gpus}"
    run(RunSpec(name, preset, config, "colors"), settings, lines.append, lambda: None)
    saved = Checkpoints(ArtifactStore(settings.artifact_url), name, 1).load_newest(lambda *_: None)
    assert saved is not None
    return saved, [line.row for line in lines if isinstance(line, MetricsLine)]


def other_ranks() -> list[psutil.Process]:
    """The other processes of a run that this process started."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "--meet" in child.cmdline()]


def gradients(saved: dict[str, Any], player: str) -> dict[int, Tensor]:
    """After a single step Adam's first moment is the gradient times 1 - beta 1."""
    return {key: moments["exp_avg"] for key, moments in saved["optimizers"][player]["state"].items()}


@pytest.mark.parametrize("preset", ["wgan-gp-conditional", "tiny"])
def test_two_processes_compute_the_gradients_of_one_with_the_whole_batch(alone: Settings, preset: str) -> None:
    """With batch norm in both networks, and in the first case with a gradient penalty."""
    # Given one step of one process with 16 images, and of two processes with 8 of them each
    single, row = end_of(alone, preset, gpus=1)
    halves, rows = end_of(alone, preset, gpus=2)
    # Then gradients, batch statistics and metrics agree up to rounding
    for player in ("d", "g"):
        expected = gradients(single, player)
        assert len(expected) > 3
        for key, gradient in gradients(halves, player).items():
            assert (gradient - expected[key]).norm() <= 1e-3 * expected[key].norm() + 1e-7, (player, key)
    for network, tensors in single["networks"].items():
        for name, value in tensors.items():
            if "running" in name:
                torch.testing.assert_close(halves["networks"][network][name], value, rtol=1e-4, atol=1e-5)
    assert halves["rng_cpu"].equal(single["rng_cpu"])
    losses = ("loss_d", "loss_g")
    assert [rows[0][k] for k in losses] == pytest.approx([row[0][k] for k in losses], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("preset", ["wgan-gp-conditional", "tiny"])
def test_several_gpus_train_in_bf16(alone: Settings, preset: str) -> None:
    # Given one step in bf16 of one process, and of two
    single, row = end_of(alone, preset, gpus=1, precision="bf16")
    halves, rows = end_of(alone, preset, gpus=2, precision="bf16")
    # Then gradients and losses agree to the 8 bits of bf16, and batch statistics and weights are in fp32
    for player in ("d", "g"):
        expected = gradients(single, player)
        for key, gradient in gradients(halves, player).items():
            assert gradient.dtype == torch.float32
            assert (gradient - expected[key]).norm() <= 0.1 * expected[key].norm() + 1e-6, (player, key)
    for network, tensors in single["networks"].items():
        for name, value in tensors.items():
            assert halves["networks"][network][name].dtype == value.dtype
            if "running" in name:
                torch.testing.assert_close(halves["networks"][network][name], value, rtol=0.02, atol=0.01)
    losses = ("loss_d", "loss_g")
    assert [rows[0][k] for k in losses] == pytest.approx([row[0][k] for k in losses], rel=0.05, abs=0.02)


def test_when_one_process_dies_the_run_fails_and_the_others_end(alone: Settings) -> None:
    # Given a run of two processes
    config = resolve("tiny", small_overrides(total_nimg=10**7, tick_nimg=16, gpus=2))
    children: list[psutil.Process] = []

    def emit(line: TrainerLine) -> None:
        # When the second is killed after training has started
        if isinstance(line, MetricsLine) and not children:
            children.extend(other_ranks())
            children[0].kill()

    # Then the first one raises an error instead of waiting
    with pytest.raises((TrainingFailed, RuntimeError)):
        run(RunSpec("bereft", "tiny", config, "colors"), alone, emit, lambda: None)
    assert len(children) == 1
    assert not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE


def test_the_other_processes_wait_for_the_first_one_without_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **given: options.update(given))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with joined(1, 2, "unused"):
        assert options["timeout"] >= timedelta(days=30)  # evaluating 50,000 images on a slow machine takes hours


def test_all_processes_stop_together(alone: Settings) -> None:
    config = resolve("tiny", small_overrides(total_nimg=10**7, tick_nimg=16, gpus=2))
    asked, lines = threading.Event(), []

    def emit(line: TrainerLine) -> None:
        lines.append(line)
        if isinstance(line, MetricsLine):
            asked.set()

    assert not run(RunSpec("left", "tiny", config, "colors"), alone, emit, lambda: "leave" if asked.is_set() else None)
    assert [line.event.kind for line in lines if isinstance(line, EventLine)][-1] == "checkpoint"
    assert other_ranks() == []


def test_a_batch_that_does_not_divide_by_the_number_of_gpus_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be a multiple of gpus"):
        small_config(batch_size=9, gpus=2)
