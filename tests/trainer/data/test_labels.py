"""Generated images have the classes of the training images, in their proportions, in training and in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from services.trainer.data.datasets import ImageDataset
from services.trainer.data.labels import draw_labels, labels_in_proportion
from services.trainer.training.sampling import sample_grid, standing_statistics
from services.trainer.training.state import TrainState
from services.trainer.training.steps import train_iteration
from tests.trainer.small import CPU, random_images, small_config

RARE = torch.tensor([0] * 57 + [1] * 3)  # one image in twenty


class Recording(nn.Module):
    """A generator that records its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.labels: list[Tensor] = []

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        self.labels.append(labels)
        images: Tensor = self.norm(z[:, :3, None, None].expand(len(z), 3, 32, 32))
        return images


def share_of_rare_class(labels: list[Tensor]) -> float:
    return torch.cat(labels).double().mean().item()


def imbalanced() -> ImageDataset:
    return ImageDataset(random_images(60).images, RARE, ("common", "rare"))


def test_the_generator_trains_on_a_rare_class_as_rarely_as_it_occurs() -> None:
    # Given a class with one image in twenty
    state = TrainState(small_config(batch_size=60, total_nimg=10**6), 2, CPU)
    recording = state.generator = Recording()
    state.opt_g = torch.optim.Adam(recording.parameters(), 1e-9)
    # When a run trains for twenty iterations, in each of which the generator makes images for both steps
    for _ in range(20):
        train_iteration(state, imbalanced(), torch.arange(60))
    # Then the labels of its own step have the data's proportions, as those of the discriminator's step do
    in_d_step, in_g_step = recording.labels[::2], recording.labels[1::2]
    assert share_of_rare_class(in_d_step) == 0.05
    assert share_of_rare_class(in_g_step) == pytest.approx(0.05, abs=0.02)


def test_batch_statistics_of_an_exported_model_weigh_a_rare_class_as_the_data_do() -> None:
    recording = Recording()
    standing_statistics(recording, small_config(), RARE, images=4096)
    assert share_of_rare_class(recording.labels) == pytest.approx(0.05, abs=0.015)


def test_a_sample_grid_weighs_a_rare_class_in_its_statistics_and_shows_all_classes_alike() -> None:
    recording = Recording()
    sample_grid(recording, small_config(), imbalanced())
    statistics, shown = recording.labels[:10], recording.labels[10:]
    assert share_of_rare_class(statistics) < 0.1
    assert share_of_rare_class(shown) == 0.5


def test_labels_for_an_evaluation_have_exactly_the_proportions_of_the_data() -> None:
    skewed = torch.arange(40) // 30
    assert labels_in_proportion(skewed, 80, seed=0).bincount().tolist() == [60, 20]
    drawn = labels_in_proportion(skewed, 20, seed=0)
    assert 0 < drawn.sum().item() < 20
    assert torch.equal(drawn, labels_in_proportion(skewed, 80, seed=0)[:20])
    assert not torch.equal(labels_in_proportion(skewed, 80, seed=1), labels_in_proportion(skewed, 80, seed=0))


def test_a_class_without_images_is_never_drawn() -> None:
    labels = torch.tensor([0, 2, 2])
    assert set(draw_labels(labels, 1000).tolist()) == set(labels_in_proportion(labels, 1000, seed=0).tolist()) == {0, 2}
