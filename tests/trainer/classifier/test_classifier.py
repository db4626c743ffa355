"""The classifier's network, training and files."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from services.trainer.classifier import training
from services.trainer.classifier.files import load_classifier
from services.trainer.classifier.network import Block, Classifier
from services.trainer.classifier.training import (
    ClassifierState,
    augment,
    class_accuracies,
    multicrop_logits,
    train,
    triangle,
)
from services.trainer.data.datasets import ImageDataset
from services.trainer.networks.build import count_parameters
from shared.configs.classifier import ClassifierConfig
from shared.errors import CorruptArtifact, Diverged, UnknownClassifier
from shared.jobs.trainer_messages import StopSignal
from shared.storage.classifier_files import GRAPH_FILE, WEIGHTS_FILE
from tests.trainer.small import CPU, random_images, untrained_classifier

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


def test_it_has_the_parameters_of_the_paper() -> None:
    # Whitening 24 x 12 + 24; 3x3 convolutions of 24-64-64, 64-256-256 and 256-256-256; two biases and two scales of 1
    # for each of their 2 x 576 channels; and ten classes
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert count_parameters(Classifier(64, 10)) == 24 * 12 + 24 + convolutions + 2 * 2 * 576 + 10 * 256


@pytest.mark.parametrize(("width", "classes", "side"), [(8, 10, 32), (9, 2, 64)])
def test_it_returns_logits_and_the_maximum_over_all_positions(width: int, classes: int, side: int) -> None:
    network = Classifier(width, classes).eval()
    maps: list[Tensor] = []
    network.blocks.register_forward_hook(lambda *call: maps.append(call[-1]))
    images = torch.rand(5, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits, features = network(images)
    assert (logits.shape, features.shape) == ((5, classes), (5, 4 * width))
    assert torch.equal(features, maps[0].flatten(2).max(2).values)
    torch.testing.assert_close(logits, features @ network.linear.weight.T / 9)


def test_a_new_convolution_passes_its_inputs_on() -> None:
    images = torch.rand(2, 64, 9, 9)
    block = next(
        block for block in Classifier(64, 10).blocks if isinstance(block, Block) and block.conv1.in_channels == 64
    )
    assert torch.equal(block.conv1(images)[:, :64], images)


def test_the_first_layer_whitens_the_patches_of_the_images() -> None:
    # Given images whose colours and neighbouring pixels are correlated, and not centred
    rng = torch.Generator().manual_seed(0)
    images = 0.3 + 0.2 * torch.randn(200, 1, 16, 16, generator=rng) + 0.2 * torch.randn(200, 3, 16, 16, generator=rng)
    images = (images + images.roll(1, 3)) / 2
    network = Classifier(8, 10)
    network.whiten(images)
    # Then its first twelve outputs have mean zero, variance one and no correlation; the others are their negatives
    with torch.no_grad():
        outputs = network.whitening(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(outputs[:12].mean(1), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(outputs[:12]), torch.eye(12), atol=0.05, rtol=0)
    torch.testing.assert_close(outputs[12:], -outputs[:12], atol=1e-4, rtol=0)


# Its training --------------------------------------------------------------------------------------------------------


def test_the_rate_rises_evenly_and_falls_evenly() -> None:
    config = small(warmup=0.2, lr_start=0.5, lr_end=0.1)
    assert [triangle(config, x) for x in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 0.75, 1.0, 0.55, 0.1])


def colors(count: int, seed: int) -> ImageDataset:
    """Reddish and bluish noise."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    images[labels == 0, 0] += 150
    images[labels == 1, 2] += 150
    return ImageDataset(images, labels, ("red", "blue"))


@pytest.mark.parametrize("multicrop", [False, True])
def test_it_learns_to_distinguish_colors(multicrop: bool) -> None:
    state = ClassifierState(small(epochs=4), 2, CPU)
    rows = run(state, colors(80, seed=0))
    assert class_accuracies(state.network, colors(40, seed=1), multicrop=multicrop).tolist() == [1.0, 1.0]
    assert class_accuracies(state.network, swapped(colors(40, seed=1)), multicrop=multicrop).tolist() == [0.0, 0.0]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9


def swapped(dataset: ImageDataset) -> ImageDataset:
    return ImageDataset(dataset.images, 1 - dataset.labels, dataset.classes)


def test_its_log_counts_images_and_ends_with_the_budget() -> None:
    rows = run(ClassifierState(small(epochs=3), 10, CPU), random_images(20))
    assert [row["nimg"] for row in rows] == [16, 32, 48, 60]  # batches of 8, the last of 4
    assert rows[0]["lr"] > 0
    assert 0 <= rows[-1]["accuracy"] <= 1


def test_a_resumed_run_equals_an_undisturbed_one() -> None:
    # Given a run with all random augmentations
    config = small(epochs=3, lookahead_every=2)
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
    # Then the networks, the slow weights and the log are the same to the last bit
    assert 0 < first.cur_nimg < undisturbed.cur_nimg == second.cur_nimg
    assert_same(undisturbed.network.state_dict(), second.network.state_dict())
    assert_same(undisturbed.slow, second.slow)
    assert untimed(rows_before + rows_after) == untimed(rows)


def test_runs_depend_on_their_seed() -> None:
    states = []
    for seed in (0, 0, 1):
        states.append(ClassifierState(small(seed=seed), 10, CPU))
        run(states[-1], random_images(20))
    assert_same(states[0].network.state_dict(), states[1].network.state_dict())
    assert not torch.equal(states[0].network.linear.weight, states[2].network.linear.weight)


def test_biases_learn_faster_and_decay_as_much_per_step_as_weights() -> None:
    # Given a network with gradients of zero, so that a step only decays
    state = ClassifierState(small(bias_lr_factor=10.0, weight_decay=0.1, momentum=0.5), 10, CPU)
    weights, biases = state.optimizer.param_groups
    assert (weights["weight_decay"] * weights["scale"], biases["weight_decay"] * biases["scale"]) == (0.1, 0.1)
    assert biases["scale"] == 10.0
    assert {parameter.ndim for parameter in biases["params"]} == {1}
    assert 1 not in {parameter.ndim for parameter in weights["params"]}
    # The whitening filters and the scales of the norms belong to neither
    trained = {id(parameter) for group in (weights, biases) for parameter in group["params"]}
    network = state.network
    assert id(network.whitening.weight) not in trained
    assert all(id(norm.weight) not in trained for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d))


def test_the_whitening_bias_is_trained_for_three_epochs_only() -> None:
    state = ClassifierState(small(epochs=5, lookahead_every=1000), 10, CPU)
    biases = []

    def on_tick(row: dict[str, float]) -> None:
        biases.append((row["nimg"], state.network.state_dict()["whitening.bias"].clone()))

    images = random_images(16)
    train(state, images, on_tick, lambda: None, lambda: None)  # a tick per epoch
    changes = [not torch.equal(before, after) for (_, before), (_, after) in pairwise(biases)]
    assert [nimg for nimg, _ in biases] == [16, 32, 48, 64, 80]
    assert changes[:3] == [True, True, False]  # the last change is Lookahead's


def test_lookahead_averages_and_the_run_ends_with_the_average() -> None:
    state = ClassifierState(small(), 10, CPU)
    first = {name: tensor.clone() for name, tensor in state.slow.items()}
    state.network.linear.weight.data.add_(1.0)
    state.look_ahead(0.75)
    expected = first["linear.weight"] + 0.25
    torch.testing.assert_close(state.network.linear.weight.data, expected)
    torch.testing.assert_close(state.slow["linear.weight"], expected)
    # With a decay of one, the network returns to the slow weights
    state.network.linear.weight.data.add_(1.0)
    state.look_ahead(1.0)
    torch.testing.assert_close(state.network.linear.weight.data, expected)


def test_each_image_is_mirrored_in_every_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given images that are known by a pixel, bright on the left
    images = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    images[:, :, :, :16] = 250
    images[:, 0, 15, :] = torch.arange(12, dtype=torch.uint8)[:, None]
    seen: dict[int, list[bool]] = {index: [] for index in range(12)}

    def step(_state: ClassifierState, batch: Tensor, _labels: Tensor, _lr: float) -> None:
        for image in (batch + 1) * 127.5:
            seen[int(image[0, 15, 0].round())].append(bool(image[1, 0, 0] < 100))

    monkeypatch.setattr(training, "step", step)
    monkeypatch.setattr(training, "_close_tick", lambda _state: {})
    # When a run sees each of them four times
    dataset = ImageDataset(images, torch.zeros(12, dtype=torch.int64), ("dark",))
    run(ClassifierState(small(epochs=4, crop_padding=0), 1, CPU), dataset)
    # Then each is mirrored every second time; some begin mirrored
    assert all(turns in ([True, False] * 2, [False, True] * 2) for turns in seen.values())
    assert {turns[0] for turns in seen.values()} == {True, False}


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    state = ClassifierState(small(), 10, CPU)
    state.network.linear.weight.data[0] = math.nan
    with pytest.raises(Diverged, match="loss is nan after 16 images"):
        run(state, random_images(20))


def test_augmentation_moves_each_image_by_whole_pixels_or_does_nothing_when_off() -> None:
    image = random_images(1).images.expand(64, 3, 32, 32)
    still = torch.zeros(64, dtype=torch.bool)
    plain = augment(image, ~still, small(flip=False, crop_padding=0))
    assert torch.equal(plain, image / 127.5 - 1)
    torch.manual_seed(0)
    moved = augment(image, still, small(crop_padding=1))
    padded = torch.nn.functional.pad(image / 127.5 - 1, (1, 1, 1, 1), mode="reflect")
    places = [padded[0, :, row : row + 32, column : column + 32] for row in range(3) for column in range(3)]
    assert {next(i for i, place in enumerate(places) if torch.equal(one, place)) for one in moved} == set(range(9))


def test_the_multicrop_average_weighs_six_views() -> None:
    # Given a network that answers with one pixel
    class Pixel(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x[:, :, 1, 2].clone(), None

    image = torch.rand(1, 3, 4, 4)
    expected = (image[:, :, 1, 2] + image[:, :, 1, 1]) / 4  # the image and its mirror image
    expected += (image[:, :, 0, 1] + image[:, :, 0, 0]) / 8  # moved down and to the right; its mirror image
    expected += (image[:, :, 2, 3] + image[:, :, 2, 2]) / 8  # up and to the left
    torch.testing.assert_close(multicrop_logits(Pixel(), image), expected)


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
    assert_same(network.state_dict(), untrained_classifier(8, 10).state_dict())


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
    with pytest.raises(CorruptArtifact, match="cannot be read by this version of Kiln"):
        load_classifier(tmp_path)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def untimed(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]
