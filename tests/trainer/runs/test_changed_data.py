"""Data sets that change between two attempts of a run, or between a run and one that starts from its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.trainer.data.datasets import ImageDataset
from services.trainer.runs.checkpoint import Checkpoints, describe_data, pack_weights, restore
from services.trainer.runs.starting_points import apply_starting_point
from services.trainer.training.state import TrainState
from shared.errors import BadConfig, EnvironmentFailed
from shared.jobs.trainer_messages import EventLine, TrainerLine
from shared.storage.artifacts import ArtifactStore
from tests.trainer.small import CPU, EventLog, random_images, small_config

ANIMALS = replace(random_images(40, 4), classes=("bee", "cat", "cow", "dog"))


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}")


def leave_checkpoint(artifacts: ArtifactStore, dataset: ImageDataset = ANIMALS, **overrides: Any) -> None:
    state = TrainState(small_config(**overrides), len(dataset.classes), CPU)
    state.cur_nimg = 64
    Checkpoints(artifacts, "first", 1).save(64, state.state_dict() | {"data": describe_data(dataset)})
    artifacts.write("jobs/first/weights/000000000064.safetensors", pack_weights(state, dataset))


def resume(artifacts: ArtifactStore, dataset: ImageDataset) -> list[str]:
    """Warnings of a run that resumes from its checkpoint."""
    lines: list[TrainerLine] = []
    state = TrainState(small_config(), len(dataset.classes), CPU)
    assert restore(state, Checkpoints(artifacts, "first", 2), dataset, lines.append)
    assert state.cur_nimg == 64
    return [line.event.message for line in lines if isinstance(line, EventLine) and line.event.kind == "warning"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "cow", "dog", "zebra"), "missing 'bee', new 'zebra'"),
        (("bee", "cat", "cow"), "missing 'dog', new none"),
        (("bee", "cat", "cow", "dog", "emu"), "missing none, new 'emu'"),
    ],
    ids=["renamed", "removed", "added"],
)
def test_a_run_is_not_resumed_on_other_classes(
    artifacts: ArtifactStore, classes: tuple[str, ...], message: str
) -> None:
    # Given a run on bees, cats, cows and dogs, whose class folders change while it is paused
    leave_checkpoint(artifacts)
    changed = replace(random_images(40, len(classes)), classes=classes)
    # When it is resumed, then it ends as resumable, and the error names the classes
    with pytest.raises(EnvironmentFailed, match=message) as caught:
        resume(artifacts, changed)
    assert caught.value.reason == "environment"
    # And once the folders are restored, it continues
    assert resume(artifacts, ANIMALS) == []


def test_a_run_warns_when_its_images_have_changed(artifacts: ArtifactStore) -> None:
    leave_checkpoint(artifacts)
    fewer = replace(ANIMALS, images=ANIMALS.images[:30], labels=ANIMALS.labels[:30])
    (warning,) = resume(artifacts, fewer)
    assert "40 images" in warning
    assert f"30 with {fewer.digest[:12]} now" in warning


def test_a_checkpoint_of_an_older_version_is_resumed_without_the_check(artifacts: ArtifactStore) -> None:
    state = TrainState(small_config(), 4, CPU)
    state.cur_nimg = 64
    Checkpoints(artifacts, "first", 1).save(64, state.state_dict())
    assert resume(artifacts, ANIMALS) == []


@pytest.mark.parametrize("reference", [{"from_checkpoint": "first"}, {"from_checkpoint": "first@64"},
                                       {"init_discriminator_from": "first"}], ids=str)  # fmt: skip
def test_a_warm_start_from_other_classes_is_refused_by_name(
    artifacts: ArtifactStore, tmp_path: Path, reference: dict[str, str]
) -> None:
    # Given a checkpoint of four animals and a data set of four colours
    leave_checkpoint(artifacts)
    config = small_config(**reference)
    colours = ("blue", "green", "red", "yellow")
    with pytest.raises(BadConfig, match=r"classes bee, cat, cow, dog; this data set has blue, green, red, yellow"):
        apply_starting_point(TrainState(config, 4, CPU), colours, artifacts, Path(), EventLog())


def test_an_unconditional_warm_start_may_have_other_classes(artifacts: ArtifactStore, tmp_path: Path) -> None:
    leave_checkpoint(artifacts, conditional=False)
    state, events = TrainState(small_config(conditional=False, from_checkpoint="first"), 1, CPU), EventLog()
    apply_starting_point(state, ("flower",), artifacts, Path(), events)
    assert events.kinds == ["resumed"]
