"""The classifier's network, training and files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from torch import Tensor

from services.trainer.classifier.files import load_classifier
from services.trainer.classifier.network import Classifier
from services.trainer.classifier.training import ClassifierState, augment, class_accuracies, one_cycle, shrink, train
from services.trainer.data.augment import cutout
from services.trainer.data.datasets import ImageDataset
from services.trainer.networks.build import count_parameters
from shared.configs.classifier import ClassifierConfig
from shared.errors import CorruptArtifact, Diverged, UnknownClassifier
from shared.jobs.trainer_messages import StopSignal
from shared.storage.classifier_files import GRAPH_FILE, WEIGHTS_FILE
from tests.trainer.small import CPU, random_images

SMALL = {"width": 8, "batch_size": 8, "tick_nimg": 16, "checkpoint_every_s": 0.0}


def small(**more: Any) -> ClassifierConfig:
    return ClassifierConfig(**SMALL | {"epochs": 2} | more)


def run(state: ClassifierState, dataset: ImageDataset, *, steps: int | None = None) -> list[dict[str, float]]:
    """Trains to the end, or stops after some steps; returns the rows of its log."""
    rows: list[dict[str, float]] = []
    left = [math.inf if steps is None else steps]

    def should_stop() -> StopSignal | None:
        left[0] -= 1
        return "leave" if left[0] < 0 else None

    train(state, dataset, rows.append, lambda: None, should_stop)
    return rows


# The network ---------------------------------------------------------------------------------------------------------


def test_at_width_64_it_is_torchvisions_resnet18_with_another_stem() -> None:
    # Given torchvision's network and ours, with its weights
    theirs, ours = torchvision.models.resnet18(num_classes=10).eval(), Classifier(64, 10).eval()
    for stage, layer in zip(ours.stages, [theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4], strict=True):
        stage.load_state_dict(layer.state_dict())
    ours.linear.load_state_dict(theirs.fc.state_dict())
    ours.stem = torch.nn.Sequential()
    # Then both compute the same behind the stem
    x = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, features = ours(x)
        expected = theirs.avgpool(theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))).flatten(1)
        assert torch.allclose(features, expected, atol=1e-5)
        assert torch.allclose(logits, theirs.fc(expected), atol=1e-5)


def test_it_has_the_parameters_of_resnet18_at_32_pixels() -> None:
    # torchvision's 11,181,642 for ten classes, with a stem of 3x3 in place of 7x7: 64 * 3 * (49 - 9) fewer
    assert count_parameters(Classifier(64, 10)) == 11_181_642 - 7_680 == 11_173_962
    stem, *_ = Classifier(64, 10).stem
    assert stem.weight.shape == (64, 3, 3, 3)


@pytest.mark.parametrize(("width", "classes"), [(2, 10), (3, 2)])
def test_it_returns_logits_and_pooled_features(width: int, classes: int) -> None:
    logits, features = Classifier(width, classes)(torch.zeros(5, 3, 32, 32))
    assert (logits.shape, features.shape) == ((5, classes), (5, 8 * width))
    assert features.min().item() >= 0  # behind a ReLU


# Its training --------------------------------------------------------------------------------------------------------


def test_the_rate_rises_evenly_and_falls_as_half_a_cosine() -> None:
    config = small(warmup=0.2)
    assert [one_cycle(config, x) for x in (0.0, 0.1, 0.2)] == [0.0, 0.5, 1.0]
    assert [one_cycle(config, x) for x in (0.6, 1.0)] == pytest.approx([0.5, 0.0])
    assert one_cycle(config, 0.4) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert one_cycle(small(warmup=0.0), 0.0) == 1.0


def colors(count: int, seed: int) -> ImageDataset:
    """Reddish and bluish noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    images[labels == 0, 0] += 150
    images[labels == 1, 2] += 150
    return ImageDataset(images, labels, ("red", "blue"))


@pytest.mark.parametrize("more", [{}, {"ema_halflife_nimg": 100}, {"small_px": 16}], ids=["plain", "averaged", "small"])
def test_it_learns_to_distinguish_colors(more: dict[str, Any]) -> None:
    state = ClassifierState(small(epochs=4, lr=0.05, **more), 2, CPU)
    before = class_accuracies(state.result, colors(40, seed=1))
    rows = run(state, colors(80, seed=0))
    assert before.tolist() != [1.0, 1.0]
    assert class_accuracies(state.result, colors(40, seed=1)).tolist() == [1.0, 1.0]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9


def test_its_log_counts_images_and_ends_with_the_budget() -> None:
    rows = run(ClassifierState(small(epochs=3), 10, CPU), random_images(20))
    assert [row["nimg"] for row in rows] == [16, 32, 48, 60]  # batches of 8, the last of 4
    assert rows[0]["lr"] > 0
    assert 0 <= rows[-1]["accuracy"] <= 1


def test_a_resumed_run_equals_an_undisturbed_one() -> None:
    # Given a run with all random augmentations
    config = small(epochs=3, cutout_px=8, ema_halflife_nimg=30, small_px=16, label_smoothing=0.1)
    undisturbed = ClassifierState(config, 10, CPU)
    rows = run(undisturbed, random_images(20))
    # When another run leaves after four steps, and a third one loads its state
    first = ClassifierState(config, 10, CPU)
    rows_before = run(first, random_images(20), steps=4)
    saved = first.state_dict()
    second = ClassifierState(config, 10, CPU)
    torch.rand(3)
    second.load_state_dict(saved)
    rows_after = run(second, random_images(20))
    # Then the networks, the averages and the log are the same to the last bit
    assert 0 < first.cur_nimg < undisturbed.cur_nimg == second.cur_nimg
    for ours, theirs in ((undisturbed.network, second.network), (undisturbed.average, second.average)):
        assert_same(ours.state_dict(), theirs.state_dict())
    assert untimed(rows_before + rows_after) == untimed(rows)


def test_runs_depend_on_their_seed() -> None:
    states = []
    for seed in (0, 0, 1):
        states.append(ClassifierState(small(seed=seed), 10, CPU))
        run(states[-1], random_images(20))
    assert_same(states[0].network.state_dict(), states[1].network.state_dict())
    assert not torch.equal(states[0].network.linear.weight, states[2].network.linear.weight)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    state = ClassifierState(small(), 10, CPU)
    state.network.linear.weight.data[0] = math.nan
    with pytest.raises(Diverged, match="loss is nan after 16 images"):
        run(state, random_images(20))


def test_small_images_come_first_and_full_size_images_last() -> None:
    images = torch.rand(2, 3, 32, 32)
    config = small(small_px=24, small_share=0.6)
    assert shrink(images, config, 0.59).shape == (2, 3, 24, 24)
    assert shrink(images, config, 0.6) is images
    assert shrink(images, small(), 0.0) is images
    grey = torch.full((1, 3, 32, 32), 0.25)
    assert torch.allclose(shrink(grey, config, 0.0), torch.full((1, 3, 24, 24), 0.25))


def test_cutout_blackens_a_square_only() -> None:
    images = torch.full((3, 3, 8, 8), 200, dtype=torch.uint8)
    cut = cutout(images, torch.tensor([2, -1, 6]), torch.tensor([1, 0, 7]), side_px=3)
    assert (cut == 0).sum((1, 2, 3)).tolist() == [3 * 9, 3 * 2 * 3, 3 * 2 * 1]  # the last two are cut by the border
    assert (cut[0, :, 2:5, 1:4] == 0).all()
    assert (cut[1, :, 0:2, 0:3] == 0).all()
    assert (cut[2, :, 6:, 7:] == 0).all()
    assert ((cut == 0) | (cut == 200)).all()
    assert (images == 200).all()


def test_augmentation_changes_each_image_differently_or_nothing_when_off() -> None:
    image = random_images(1).images.expand(64, 3, 32, 32)
    plain = augment(image, small(flip=False, crop_padding=0))
    assert torch.equal(plain, image / 127.5 - 1)
    torch.manual_seed(0)
    varied = augment(image, small(cutout_px=8))
    assert len({tuple(one.flatten().tolist()) for one in varied}) > 60


# Its files -----------------------------------------------------------------------------------------------------------


def test_the_graph_and_the_weights_compute_the_same(shipped_classifier: Path) -> None:
    # Given the files of a classifier
    network, manifest = load_classifier(shipped_classifier)
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = network(images)
    # Then its graph gives the same logits and features
    session = onnxruntime.InferenceSession(shipped_classifier / GRAPH_FILE, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "features"]
    for ours, theirs in zip(expected, session.run(None, {"images": images.numpy()}), strict=True):
        assert np.abs(ours.numpy() - np.asarray(theirs)).max() < 1e-4
        assert ours.std() > 0.01
    # And the digest is that of the weights, and they load into the same network
    assert manifest.digest == manifest.files[WEIGHTS_FILE]
    torch.manual_seed(0)
    assert_same(network.state_dict(), Classifier(8, 10).state_dict())


def test_the_graph_names_no_file_of_this_machine(shipped_classifier: Path) -> None:
    assert b".py" not in (shipped_classifier / GRAPH_FILE).read_bytes()


def test_a_changed_file_is_refused_by_name(classifier_folder: Path) -> None:
    weights = classifier_folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(
        CorruptArtifact, match=r"classifier\.safetensors of the classifier in .* does not match the digest"
    ):
        load_classifier(classifier_folder)
    weights.unlink()
    with pytest.raises(CorruptArtifact, match=r"lacks its file classifier\.safetensors"):
        load_classifier(classifier_folder)


def test_a_folder_without_a_classifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownClassifier, match=r"there is no classifier in '.*nowhere'"):
        load_classifier(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match="is unreadable"):
        load_classifier(tmp_path)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def untimed(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]
