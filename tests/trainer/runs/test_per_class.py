"""One GAN per class: trained independently, as one run with one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from services.trainer.data.datasets import ImageDataset
from services.trainer.runs import per_class
from services.trainer.runs.checkpoint import pack, unpack
from services.trainer.runs.per_class import PerClassState, config_of_part, images_of
from services.trainer.runs.publish import export_model
from services.trainer.runs.spec import RunSpec
from services.trainer.training import loop
from services.trainer.training.state import TrainState
from shared.configs.presets import resolve
from shared.configs.train import TrainConfig
from shared.errors import BadConfig, InvalidInput
from shared.settings import Settings
from shared.storage.model_registry import GENERATOR_FILE
from tests.trainer.small import CPU, random_images, small_config

COLORS = ("red", "green", "blue")
CONFIG = small_config(
    per_class=True, conditional=False, total_nimg=3 * 64, tick_nimg=3 * 32, snapshot_nimg=3 * 32, checkpoint_every_s=0.0
)


def colors(per_class: int = 16) -> ImageDataset:
    """Noise of three classes, each bright in the channel of its name only."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (3 * per_class, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(3 * per_class) % 3
    images[torch.arange(len(labels)), labels] += 180
    return ImageDataset(images, labels, COLORS)


def fresh(config: TrainConfig, images: ImageDataset) -> TrainState:
    return TrainState(config, len(images.classes), CPU)


def begin(config: TrainConfig = CONFIG) -> PerClassState:
    return PerClassState(config, colors(), fresh)


class Killed(BaseException):
    """Simulates a killed process."""


@dataclass
class Listener:
    """Keeps the messages, and the checkpoints by the images seen; dies after `dies_at` images."""

    dies_at: int | None = None
    messages: list[loop.Message] = field(default_factory=list)
    checkpoints: dict[int, bytes] = field(default_factory=dict)

    def __call__(self, message: loop.Message) -> None:
        self.messages.append(message)
        if isinstance(message, loop.CheckpointMessage):
            if message.state.cur_nimg == self.dies_at:
                raise Killed
            self.checkpoints[message.state.cur_nimg] = pack(message.state.state_dict())

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [message for message in self.messages if isinstance(message, kind)]


@pytest.fixture(scope="module")
def undisturbed() -> tuple[PerClassState, Listener]:
    """An undisturbed run."""
    state, messages = begin(), Listener()
    assert per_class.train(state, colors(), messages, lambda: None) == "done"
    return state, messages


def test_each_class_is_trained_as_if_it_were_alone(undisturbed: tuple[PerClassState, Listener]) -> None:
    generators = [part.generator for part in undisturbed[0].finished] + [undisturbed[0].part.ema]
    assert len(generators) == 3

    for number, generator in enumerate(generators):
        alone = TrainState(config_of_part(CONFIG, number, 3), 1, CPU)
        loop.train(alone, images_of(colors(), number), Listener(), lambda: None)
        for one, other in zip(generator.parameters(), alone.ema.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_class_is_trained_on_its_own_images_only() -> None:
    for number, color in enumerate(COLORS):
        own = images_of(colors(), number)
        assert (len(own), own.classes, sorted(set(own.labels.tolist()))) == (16, (color,), [0])
        assert own.images.float().mean((0, 2, 3)).argmax() == number


def test_messages_and_checkpoints_are_those_of_one_run(undisturbed: tuple[PerClassState, Listener]) -> None:
    state, messages = undisturbed

    assert state.cur_nimg == 3 * 64
    rows = [message.row for message in messages.of(loop.MetricsMessage)]
    assert rows == state.metrics
    assert [(row["nimg"], row["class"]) for row in rows] == [(32, 0), (64, 0), (96, 1), (128, 1), (160, 2), (192, 2)]
    progress = messages.of(loop.ProgressMessage)
    assert [(message.nimg, message.fraction) for message in progress][-1] == (192, 1.0)
    assert progress[0].eta_seconds > 0
    grids = {message.nimg: message.images for message in messages.of(loop.SamplesMessage)}
    assert list(grids) == [0, 32, 64, 96, 128, 160, 192]
    # Each row of the grid is a class. Classes that have not started are grey; finished ones do not change.
    assert (grids[64][10:30] == 128).all()
    assert not (grids[96][10:20] == 128).all()
    assert torch.equal(grids[192][:10], grids[96][:10])


def test_a_run_killed_in_its_third_class_ends_as_an_undisturbed_one(
    undisturbed: tuple[PerClassState, Listener],
) -> None:
    expected, messages = undisturbed
    # Given a run that dies a step after a checkpoint, in its third class
    killed = Listener(dies_at=2 * 64 + 32)
    with pytest.raises(Killed):
        per_class.train(begin(), colors(), killed, lambda: None)
    newest = max(killed.checkpoints)
    assert newest == 2 * 64 + 24

    # When another process resumes it
    torch.manual_seed(12345)
    state, rest = begin(), Listener()
    state.load_state_dict(unpack(killed.checkpoints[newest]))
    assert (state.number, state.cur_nimg) == (2, newest)
    assert per_class.train(state, colors(), rest, lambda: None) == "done"

    # Then networks, metrics and grids are those of an undisturbed run
    for name, tensor in expected.ema.state_dict().items():
        torch.testing.assert_close(state.ema.state_dict()[name], tensor, rtol=0, atol=0)
    assert state.metrics == expected.metrics
    assert torch.equal(rest.of(loop.SamplesMessage)[-1].images, messages.of(loop.SamplesMessage)[-1].images)


def test_on_the_leave_signal_the_checkpoint_holds_all_classes_so_far() -> None:
    messages = Listener()

    assert (
        per_class.train(begin(), colors(), messages, lambda: "leave" if messages.checkpoints.get(72) else None)
        == "leave"
    )

    saved = unpack(messages.checkpoints[72])
    assert (saved["cur_nimg"], len(saved["finished"])) == (72, 1)


@pytest.fixture(scope="module")
def two_of_three(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], bytes, bytes]:
    """Classes, graph and preview of a run on colours that gets the finish signal during its second class."""
    longer = {"total_nimg": 3 * 800, "tick_nimg": 10**6, "snapshot_nimg": 10**6, "checkpoint_every_s": 1e6, "lr": 4e-3}
    config = CONFIG.model_copy(update=longer)
    state = begin(config)
    data = tmp_path_factory.mktemp("two-of-three")
    per_class.train(state, colors(), Listener(), lambda: "finish" if state.cur_nimg > 1500 else None)
    result = export_model(RunSpec("run", "tiny", config, "colors"), state, colors(), Settings(data=data))
    assert result.manifest.conditional
    files = result.read_files()
    return result.manifest.classes, files[GENERATOR_FILE], files["preview.png"]


def test_on_the_finish_signal_the_model_has_the_classes_that_were_started(
    two_of_three: tuple[tuple[str, ...], bytes, bytes],
) -> None:
    assert two_of_three[0] == ("red", "green")


def test_the_model_has_the_usual_signature_and_selects_the_generator_by_label(
    two_of_three: tuple[tuple[str, ...], bytes, bytes],
) -> None:
    session = onnxruntime.InferenceSession(two_of_three[1], providers=["CPUExecutionProvider"])
    z = np.random.default_rng(0).standard_normal((12, 8), dtype=np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1], dtype=np.int64)

    (mixed,) = session.run(["images"], {"z": z, "labels": labels})

    # Each class shows its colour more than the other does, and an image does not depend on its batch.
    redness = np.asarray(mixed)[:, 0].mean((1, 2)) - np.asarray(mixed)[:, 1].mean((1, 2))
    assert redness[labels == 0].min() > 0 > redness[labels == 1].max()
    for label in (0, 1):
        (alone,) = session.run(["images"], {"z": z[labels == label], "labels": labels[labels == label]})
        np.testing.assert_allclose(alone, np.asarray(mixed)[labels == label], atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        ({"conditional": True}, "overrides.conditional"),
        ({"conditional": False, "gpus": 2}, "overrides.gpus"),
        ({"conditional": False, "eval_every_nimg": 100}, "overrides.eval_every_nimg"),
    ],
)
def test_options_that_exclude_each_other_are_refused(overrides: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        small_config(per_class=True, **overrides)

    assert [problem.field for problem in caught.value.problems] == [wrong]


def test_a_model_too_large_for_a_file_is_refused_at_the_start() -> None:
    config = resolve("wgan-gp", {"per_class": True})  # a generator of 14 MB

    with pytest.raises(BadConfig, match="generators for 100 classes take 1,379,430,400 bytes"):
        PerClassState(config, random_images(100, 100), fresh)
