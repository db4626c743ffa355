"""Classification accuracy score, with images of two colours that a classifier learns in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.trainer.data.datasets import ImageDataset, load_dataset
from services.trainer.metrics.classification_accuracy import AccuracyScorer, ScoreSpec, open_scorer, score_spec
from shared.configs.classifier import ClassifierConfig
from shared.errors import BadDataset, InvalidInput
from shared.settings import Settings
from tests.processes import write_color_dataset
from tests.trainer.small import CPU, small_config

SPEC = ScoreSpec(40, ClassifierConfig(width=8, epochs=12, batch_size=8))
CONFIG = small_config()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Bluish and reddish noise, with the labels 0 and 1."""
    folder = tmp_path_factory.mktemp("datasets")
    write_color_dataset(folder)
    return load_dataset(folder, "colors")


def scorer(real: ImageDataset) -> AccuracyScorer:
    images = ImageDataset(real.images.clone(), real.labels, real.classes)
    return AccuracyScorer(images, real, SPEC, CPU)


def coloured(z: Tensor, labels: Tensor) -> Tensor:
    """Noise as in the data set, bluish for label 0 and reddish for label 1."""
    pixels = torch.randint(0, 60, (len(z), 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    pixels[torch.arange(len(z)), torch.where(labels == 0, 2, 0)] += 180
    return pixels / 127.5 - 1


def mislabelled(z: Tensor, labels: Tensor) -> Tensor:
    return coloured(z, 1 - labels)


def test_images_of_the_right_classes_score_high_and_those_of_the_wrong_ones_low(real: ImageDataset) -> None:
    good, bad = scorer(real).score(coloured, CONFIG), scorer(real).score(mislabelled, CONFIG)

    assert good is not None
    assert bad is not None
    assert good.score > 0.9
    assert bad.score < 0.1
    # The classifier of real images saw neither of them
    assert good.real_score == bad.real_score > 0.9
    assert (good.images, good.test_images) == (40, 80)
    assert good.classifier == {"width": 8, "epochs": 12, "batch_size": 8, "precision": "bf16", "seed": 0}


def test_the_generator_is_asked_for_the_classes_in_the_proportions_of_the_training_images(real: ImageDataset) -> None:
    # Given three bluish images for each reddish one
    chosen = torch.cat([torch.arange(30), torch.arange(40, 50)])
    rare = ImageDataset(real.images[chosen], real.labels[chosen], real.classes)
    requested: list[int] = []

    def listener(z: Tensor, labels: Tensor) -> Tensor:
        requested.extend(labels.tolist())
        return coloured(z, labels)

    AccuracyScorer(rare, real, SPEC, CPU).score(listener, CONFIG)

    assert (requested.count(0), requested.count(1)) == (30, 10)


def test_the_real_images_train_one_classifier_for_all_models(real: ImageDataset) -> None:
    accuracy_scorer = scorer(real)
    first = accuracy_scorer.score(coloured, CONFIG)
    accuracy_scorer.real.images.zero_()  # a classifier of black images would be right half of the time
    second = accuracy_scorer.score(mislabelled, CONFIG)

    assert first is not None
    assert second is not None
    assert second.real_score == first.real_score > 0.9


def test_grey_images_are_scored_as_colour_images_are(real: ImageDataset) -> None:
    grey = ImageDataset(real.images[:, :1], real.labels, real.classes)  # the red channel: dark or bright

    score = AccuracyScorer(grey, grey, SPEC, CPU).score(lambda z, labels: coloured(z, labels)[:, :1], CONFIG)

    assert score is not None
    assert min(score.score, score.real_score) > 0.9


def test_an_unconditional_model_has_no_score(real: ImageDataset) -> None:
    assert scorer(real).score(coloured, small_config(conditional=False, class_weight=0.0)) is None


def test_small_sets_get_small_batches() -> None:
    assert [score_spec(count).classifier.batch_size for count in (10, 2_000, 50_000)] == [2, 50, 1024]
    assert score_spec(50_000, epochs=3, seed=7).classifier == ClassifierConfig(epochs=3, seed=7)


def test_a_data_set_without_test_images_is_refused(tmp_path: Path) -> None:
    write_color_dataset(tmp_path)
    dataset = load_dataset(tmp_path, "colors")
    with pytest.raises(BadDataset, match=r"data set colors has no test split, .*colors/test/<class>, or .* --cas"):
        open_scorer(Settings(data=tmp_path, datasets=tmp_path), "colors", dataset, CPU, SPEC)


@pytest.mark.parametrize(("images", "epochs", "field"), [(9, 5, "cas"), (-1, 5, "cas"), (10, 0, "cas-epochs")])
def test_too_few_images_or_epochs_are_named(images: int, epochs: int, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        score_spec(images, epochs)
