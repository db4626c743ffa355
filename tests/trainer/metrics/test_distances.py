"""FID, KID, Inception Score, precision and recall against hand-computed values, slow references and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import poly_mmd

from services.trainer.metrics.distances import (
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_figures,
    moments,
    neighbourhoods,
    squared_mmd,
)


def draw(count: int, dim: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Correlated features, always the same for a seed."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, dim, generator=rng) @ mixing * scale + shift


class Given(nn.Module):
    """An "extractor" for torchmetrics whose images already are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


# Moments and FID -----------------------------------------------------------------------------------------------------


def test_moments_of_two_points_by_hand() -> None:
    result = moments(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    assert result.mean.tolist() == [1.0, 2.0]
    assert result.covariance.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    assert result.covariance.dtype == torch.float64


def test_the_covariance_of_a_single_image_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 2 features, not 1"):
        moments(torch.zeros(1, 3))


def test_the_distance_of_gaussians_on_a_line_follows_from_means_and_deviations() -> None:
    # Given N(1, 2^2) and N(3, 3^2): (1 - 3)^2 + (2 - 3)^2
    a, b = Moments(*tensors([1.0], [[4.0]])), Moments(*tensors([3.0], [[9.0]]))
    assert frechet_distance(a, b) == pytest.approx(5.0, abs=1e-12)


def test_the_distance_of_gaussians_whose_axes_differ_by_hand() -> None:
    # For 2x2 matrices, tr (A B)^(1/2) = (tr A B + 2 (det A det B)^(1/2))^(1/2); here tr A B = 10.5, det A = det B = 4
    a = Moments(*tensors([0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]]))
    b = Moments(*tensors([1.0, 1.0], [[2.0, 1.0], [1.0, 2.5]]))
    expected = 2.0 + 5.0 + 4.5 - 2 * math.sqrt(10.5 + 2 * 4.0)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [400, 10], ids=["full rank", "fewer images than features"])
def test_features_are_at_distance_zero_from_themselves_and_a_shift_counts_squared(count: int) -> None:
    features = draw(count, 20, seed=0)
    own = moments(features)
    scale = own.covariance.trace().item()
    assert frechet_distance(own, own) == pytest.approx(0.0, abs=1e-12 * scale)
    # Each of the 20 features moved by 3
    assert frechet_distance(own, moments(features.double() + 3)) == pytest.approx(20 * 9, abs=1e-9 * scale)


def test_fid_equals_torchmetrics_and_the_unsymmetric_root() -> None:
    real, fake = draw(500, 16, seed=1), draw(300, 16, seed=2, scale=1.3, shift=0.5)
    ours = frechet_distance(moments(real), moments(fake))
    # The definition as written, by the eigenvalues of A B
    a, b = moments(real), moments(fake)
    roots = torch.linalg.eigvals(a.covariance @ b.covariance).sqrt().real.sum()
    slow = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * roots
    assert ours == pytest.approx(slow.item(), rel=1e-9)
    assert ours > 1
    # And torchmetrics, which ends in float32
    theirs = FrechetInceptionDistance(feature=Given(16), normalize=True)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-4)


# KID -----------------------------------------------------------------------------------------------------------------


def test_squared_mmd_of_four_numbers_by_hand() -> None:
    # Kernel (x y + 1)^3. Within {0, 1}: k(0, 1) = 1. Within {0, 2}: k(0, 2) = 1. Across: 1, 1, 1 and k(1, 2) = 27.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert squared_mmd(x, y).item() == 1 + 1 - 2 * (1 + 1 + 1 + 27) / 4


def test_kid_equals_torchmetrics() -> None:
    real, fake = draw(60, 8, seed=1), draw(60, 8, seed=2, scale=1.2, shift=0.3)
    ours = kernel_distance(real, fake, subsets=1, subset_size=60, seed=0)  # the only subset contains all features
    assert ours.mean == pytest.approx(poly_mmd(real, fake).item(), rel=1e-3)
    assert ours.std == 0
    assert abs(ours.mean) > 1  # and not both zero


def test_kid_is_zero_on_average_for_equal_distributions_and_positive_for_others() -> None:
    # Given two thousand subsets of ten from one distribution
    real, fake = draw(20_000, 4, seed=1, scale=0.5), draw(20_000, 4, seed=2, scale=0.5)
    same = kernel_distance(real, fake, subsets=2000, subset_size=10, seed=0)
    standard_error = same.std / math.sqrt(2000)
    # Then the mean is zero within chance; counting each image with itself would have added k(x, x) / n on both sides
    assert abs(same.mean) < 4 * standard_error
    bias = 2 * ((real.double().square().sum(1) / 4 + 1) ** 3).mean().item() / 10
    assert bias > 20 * standard_error
    other = kernel_distance(real, fake + 1, subsets=2000, subset_size=10, seed=0)
    assert other.mean > 20 * standard_error


def test_kid_depends_on_its_seed_only() -> None:
    real, fake = draw(200, 4, seed=1), draw(200, 4, seed=2)
    before = torch.get_rng_state()
    first = kernel_distance(real, fake, subsets=5, subset_size=50, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert kernel_distance(real, fake, subsets=5, subset_size=50, seed=7) == first
    assert kernel_distance(real, fake, subsets=5, subset_size=50, seed=8) != first


@pytest.mark.parametrize("subset_size", [1, 101])
def test_a_subset_that_cannot_be_drawn_is_refused(subset_size: int) -> None:
    with pytest.raises(ValueError, match=f"subsets of {subset_size} cannot be drawn from 100 and 200 features"):
        kernel_distance(draw(100, 2, 0), draw(200, 2, 1), subsets=1, subset_size=subset_size, seed=0)


# Inception Score -----------------------------------------------------------------------------------------------------


def test_certain_and_balanced_predictions_score_the_number_of_classes() -> None:
    assert inception_score(1000 * torch.eye(10).repeat(50, 1)) == pytest.approx(10, rel=1e-12)


def test_equal_predictions_score_one() -> None:
    assert inception_score(
        torch.randn(10, generator=torch.Generator().manual_seed(0)).expand(500, 10)
    ) == pytest.approx(1)
    assert inception_score((1000 * torch.eye(10)[3]).expand(500, 10)) == pytest.approx(1)


def test_the_score_of_two_images_by_hand() -> None:
    # p = (3/4, 1/4) and (1/4, 3/4), mean (1/2, 1/2): each diverges by 3/4 log 3/2 + 1/4 log 1/2
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()
    assert inception_score(logits, splits=1) == pytest.approx(1.5**0.75 * 0.5**0.25, rel=1e-6)


def test_the_score_equals_torchmetrics() -> None:
    logits = draw(600, 10, seed=3)
    with pytest.warns(UserWarning, match="large memory footprint"):
        theirs = InceptionScore(feature=Given(10), splits=1)
    theirs.update(logits)
    with pytest.warns(UserWarning, match="degrees of freedom"):  # of its deviation between splits
        expected = theirs.compute()[0].item()
    assert inception_score(logits, splits=1) == pytest.approx(expected, rel=1e-4)


# Precision and recall ------------------------------------------------------------------------------------------------


def precision_and_recall(real: Tensor, fake: Tensor, k: int = 3, chunk: int = 2000) -> tuple[float, float]:
    figures = manifold_figures(neighbourhoods(real, k, k, chunk), neighbourhoods(fake, k, k, chunk), chunk)
    return figures.precision, figures.recall


def density_and_coverage(real: Tensor, fake: Tensor, k: int = 5, chunk: int = 2000) -> tuple[float, float]:
    figures = manifold_figures(neighbourhoods(real, 1, k, chunk), neighbourhoods(fake, 1, k, chunk), chunk)
    return figures.density, figures.coverage


def test_precision_and_recall_on_a_line_by_hand() -> None:
    # Given real images at 0, 1, 2, 3, each with its nearest neighbour 1 away, and fake ones at 2.5 and 10
    real, fake = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[2.5], [10.0]])
    # Then one of two fake images is within reach of a real one; the fake ones reach 7.5 far: from -5, and from 2.5 on
    assert precision_and_recall(real, fake, k=1) == (0.5, 1.0)
    assert precision_and_recall(fake, real, k=1) == (1.0, 0.5)


def test_a_generator_of_one_image_has_high_precision_and_low_recall() -> None:
    real = torch.arange(50.0)[:, None]
    fake = torch.full((20, 1), 7.0)
    assert precision_and_recall(real, fake) == (1.0, 1 / 50)


def test_images_far_from_the_data_have_no_precision_and_no_recall() -> None:
    assert precision_and_recall(draw(50, 4, 0), draw(50, 4, 1, shift=1000.0)) == (0.0, 0.0)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_precision_and_recall_follow_the_definition_for_any_chunk(chunk: int) -> None:
    real, fake = draw(90, 5, seed=4), draw(70, 5, seed=5, scale=0.8, shift=0.4)
    result = precision_and_recall(real, fake, k=3, chunk=chunk)
    assert result == (slow_coverage(fake, real, k=3), slow_coverage(real, fake, k=3))
    assert all(0.1 < share < 0.95 for share in result)  # so that the comparison is not trivial


def test_too_few_images_for_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="5 neighbours need at least 6 features; there are 5"):
        neighbourhoods(draw(5, 2, 0), k=3, coverage_k=5)


def slow_coverage(points: Tensor, centres: Tensor, k: int) -> float:
    """The slow reference, image by image, as in algorithm 1 of the paper."""
    reach = [sorted(math.dist(a, b) for b in centres.tolist())[k] for a in centres.tolist()]
    hits = [
        any(math.dist(point, centre) <= r for centre, r in zip(centres.tolist(), reach, strict=True))
        for point in points.tolist()
    ]
    return sum(hits) / len(hits)


def tensors(mean: list[float], covariance: list[list[float]]) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)


def test_density_and_coverage_by_hand() -> None:
    # Given real points at 0, 1, 2 and 10 on a line; with k = 1 their balls reach to 1, 1, 1 and 8
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # When the generated points are 0.5, inside the balls of 0 and 1, and 20, inside none
    density, coverage = density_and_coverage(real, torch.tensor([[0.5], [20.0]]), k=1)
    # Then 2 balls per 2 points, and 2 of 4 real points are covered
    assert (density, coverage) == (1.0, 0.5)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_density_and_coverage_follow_the_definition_for_any_chunk(chunk: int) -> None:
    real, fake = draw(90, 5, seed=4), draw(70, 5, seed=5, scale=0.8, shift=0.4)
    # The slow reference, pair by pair, as in equations 3 and 4 of the paper
    reach = [sorted(math.dist(a, b) for b in real.tolist())[5] for a in real.tolist()]
    held = [[math.dist(a, b) < radius for b in fake.tolist()] for a, radius in zip(real.tolist(), reach, strict=True)]
    density, coverage = density_and_coverage(real, fake, k=5, chunk=chunk)
    assert density == pytest.approx(sum(map(sum, held)) / (5 * 70), rel=1e-12)
    assert coverage == pytest.approx(sum(map(any, held)) / 90, rel=1e-12)
    assert 0.1 < coverage < 0.95  # so that the comparison is not trivial


def test_one_outlier_raises_precision_but_hardly_density() -> None:
    # Given real images in a cluster, one far outlier whose ball holds everything, and generated images halfway to it
    rng = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(99, 4, generator=rng), torch.full((1, 4), 100.0)])
    fake = torch.randn(50, 4, generator=rng) + 60
    precision, _ = precision_and_recall(real, fake, k=3)
    density, coverage = density_and_coverage(real, fake, k=5)
    assert precision == 1.0
    assert density <= 0.2
    assert coverage == 0.01
