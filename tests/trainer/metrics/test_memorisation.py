"""Memorisation: copies of training images are noticed, and real images that were not trained on are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from services.trainer.data.augment import to_unit_range
from services.trainer.metrics.evaluation import Evaluator, make_evaluator
from services.trainer.metrics.extractor import classifier_extractor
from services.trainer.metrics.memorisation import (
    authenticity,
    describe,
    memorisation_of,
    nearest,
    reference_of,
    share_nearer,
)
from shared.storage.artifacts import ArtifactStore
from tests.trainer.small import CPU, random_images, small_config


def cloud(count: int, seed: int) -> Tensor:
    """Independent points of one distribution. [N, 8]"""
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


@hypothesis_settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_the_nearest_training_image_is_found(seed: int) -> None:
    """Against all distances at once, on three chunks."""
    queries, training = cloud(5, seed), cloud(20_000, seed + 1)
    expected = torch.linalg.vector_norm(queries[:, None].double() - training.double(), dim=2)

    neighbours = nearest(queries, training)

    assert neighbours.indices.tolist() == expected.argmin(1).tolist()
    torch.testing.assert_close(neighbours.distances.double(), expected.min(1).values)


def test_a_training_image_is_not_its_own_neighbour() -> None:
    training = torch.tensor([[0.0], [1.0], [3.0], [3.5]])

    neighbours = nearest(training[[0, 3]], training, own=torch.tensor([0, 3]))

    assert neighbours.indices.tolist() == [1, 2]
    assert neighbours.distances.tolist() == [1.0, 0.5]


def test_authenticity_is_what_one_computes_by_hand() -> None:
    """Training images at 0, 1 and 10. 1.5 is 0.5 from 1, which is 1 from 0: a copy. 12 is 2 from 10, which is 9 from 1:
    a copy. -2 is 2 from 0, which is 1 from 1: authentic. 20 is 10 from 10, which is 9 from 1: authentic.
    """
    training, images = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[1.5], [12.0], [-2.0], [20.0]])

    assert authenticity(nearest(images, training), training) == 0.5


def test_the_share_of_nearer_images_counts_equal_ones_half() -> None:
    assert share_nearer(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0])) == (1 + 1 + 0.5 + 1) / 4


def test_real_test_images_raise_no_warning_and_look_like_the_reference() -> None:
    training, test = cloud(5000, 0), cloud(2000, 1)
    reference = reference_of(test[:1000], training)

    figures = describe(nearest(test[1000:], training), reference, training)

    assert figures.warning is None
    assert figures.copied_share <= 0.03
    assert figures.nearer_share == pytest.approx(0.5, abs=0.05)
    assert figures.authenticity == pytest.approx(figures.reference_authenticity, abs=0.05)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_a_model_that_returns_training_images_is_noticed(share: float) -> None:
    training, test = cloud(5000, 0), cloud(2000, 1)
    copies = round(1000 * share)
    images = torch.cat([training[:copies], test[1000 + copies :]])

    figures = describe(nearest(images, training), reference_of(test[:1000], training), training)

    assert figures.copied_share == pytest.approx(share, abs=0.03)
    assert figures.warning is not None
    assert f"{figures.copied_share:.0%} of 1,000 generated images" in figures.warning


def test_without_enough_test_images_training_images_are_the_reference() -> None:
    training = cloud(3000, 0)
    for test in (None, cloud(20, 1)):
        reference = reference_of(test, training)

        assert (reference.split, len(reference.distances)) == ("train", 1000)
        assert describe(nearest(training[:500], training), reference, training).warning is not None
        honest = describe(nearest(cloud(500, 2), training), reference, training)
        assert (honest.warning, honest.reference, honest.reference_images) == (None, "train", 1000)


def test_duplicates_among_the_training_images_hide_no_copies() -> None:
    """With every image there twice, the reference distances are zero, and only images at distance zero are copies."""
    training = cloud(500, 0).repeat(2, 1)
    reference = reference_of(None, training)

    assert describe(nearest(training[:200], training), reference, training).copied_share == 1.0
    assert describe(nearest(cloud(200, 1), training), reference, training).copied_share == 0.0


@pytest.fixture
def evaluator(classifier_folder: Path, tmp_path: Path) -> Evaluator:
    """Real images are noise, and the classifier is untrained."""
    cache = ArtifactStore(f"file://{tmp_path / 'cache'}")
    return make_evaluator([classifier_extractor(classifier_folder, CPU)], random_images(300), None, cache)


def test_the_picture_shows_each_copy_above_its_training_image(evaluator: Evaluator) -> None:
    # Given a "generator" that returns training images
    training = evaluator.dataset.images

    def copying(z: Tensor, labels: Tensor) -> Tensor:
        return to_unit_range(training[: len(z)])

    # When it is measured
    figures, pairs = memorisation_of(evaluator, copying, small_config(eval_images=40))

    # Then all images are copies, and the picture shows each of ten twice
    assert (figures.images, figures.copied_share, figures.authenticity) == (40, 1.0, 0.0)
    assert figures.warning is not None
    assert figures.extractor == evaluator.first.extractor.as_protocol()
    assert pairs.shape == (20, 3, 32, 32)
    assert torch.equal(pairs[:10], pairs[10:])
    assert len({image.numpy().tobytes() for image in pairs[:10]}) == 10


def test_a_generator_of_other_images_raises_no_warning(evaluator: Evaluator) -> None:
    def other(z: Tensor, labels: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(99)
        return torch.rand(len(z), 3, 32, 32, generator=rng) * 2 - 1

    figures, _ = memorisation_of(evaluator, other, small_config(eval_images=40))

    assert figures.warning is None
