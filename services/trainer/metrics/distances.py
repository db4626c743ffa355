"""Computes FID, KID, Inception Score, precision, recall, density and coverage. Pure functions in float64.

Features are [N, D] of any float type, one row per image. Their order matters only for the Inception Score's splits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean [D] and unbiased covariance [D, D] of features, float64."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root [D, D] of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        # A covariance has no negative eigenvalues; rounding produces some of the order of 1e-16.
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return root


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features [N, D]. Raises ValueError for fewer than two rows."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 features, not {len(features)}")
    centred = features.double()
    mean = centred.mean(0)
    centred = centred - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """FID (Heusel et al. 2017, arXiv:1706.08500, eq. 6): |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    tr (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2). Both roots are of symmetric matrices and exist
    even if those are singular, whereas A B is not symmetric and its root may be complex.
    """
    shift = (a.mean - b.mean).square().sum()
    cross = torch.linalg.svdvals(a.root @ b.root).sum()
    return float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross)


@dataclass(frozen=True)
class KernelDistance:
    """Mean over subsets, and the standard deviation between them."""

    mean: float
    std: float


def kernel_distance(real: Tensor, fake: Tensor, *, subsets: int, subset_size: int, seed: int) -> KernelDistance:
    """KID (Binkowski et al. 2018, arXiv:1801.01401, section 4): unbiased squared MMD, kernel (x.y / D + 1)^3.

    Each subset is `subset_size` real and generated images, drawn without replacement. Raises ValueError if there are
    fewer images than that, or if `subset_size` is below 2.
    """
    if not 2 <= subset_size <= min(len(real), len(fake)):
        raise ValueError(f"subsets of {subset_size} cannot be drawn from {len(real)} and {len(fake)} features")
    rng = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(subsets):
        chosen = [torch.randperm(len(side), generator=rng)[:subset_size].to(side.device) for side in (real, fake)]
        estimates.append(squared_mmd(real[chosen[0]].double(), fake[chosen[1]].double()))
    values = torch.stack(estimates)
    return KernelDistance(float(values.mean()), float(values.std(unbiased=False)))


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate from [N, D] and [M, D] (Gretton et al. 2012, lemma 6); it can be negative near zero."""
    within_x, within_y, across = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    n, m = len(x), len(y)
    return (
        (within_x.sum() - within_x.trace()) / (n * (n - 1))
        + (within_y.sum() - within_y.trace()) / (m * (m - 1))
        - 2 * across.mean()
    )


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """exp of the mean divergence of p(class | image) from p(class); Salimans et al. 2016, arXiv:1606.03498, section 4.

    The mean over `splits` consecutive parts, as usual. Ranges from 1 (worst) to the number of classes.
    """
    scores = []
    for part in logits.double().chunk(min(splits, len(logits))):
        log_p = part.log_softmax(1)
        log_mean = log_p.logsumexp(0) - math.log(len(part))
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())
    return float(torch.stack(scores).mean())


@dataclass(frozen=True)
class Neighbourhoods:
    """Balls around features float64 [N, D]: their radii [N] are the distances to the k-th neighbour."""

    features: Tensor
    radii: Tensor  # for precision and recall
    wide_radii: Tensor  # for density and coverage
    coverage_k: int


def neighbourhoods(features: Tensor, k: int = 3, coverage_k: int = 5, chunk: int = 2000) -> Neighbourhoods:
    """The balls of features [N, D]. `chunk` rows are compared with all others at a time, which bounds the memory.

    Raises ValueError if there are no more features than neighbours.
    """
    count = max(k, coverage_k) + 1  # one more, because the nearest row is the row itself
    if len(features) < count:
        raise ValueError(f"{count - 1} neighbours need at least {count} features; there are {len(features)}")
    features = features.double()
    parts = [_distances(part, features).topk(count, largest=False).values for part in torch.split(features, chunk)]
    nearest = torch.cat(parts)  # [N, count], in ascending order
    return Neighbourhoods(features, nearest[:, k], nearest[:, coverage_k], coverage_k)


@dataclass(frozen=True)
class ManifoldFigures:
    """Precision, recall and coverage are shares; density is about 1 for real images."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_figures(real: Neighbourhoods, fake: Neighbourhoods, chunk: int = 2000) -> ManifoldFigures:
    """How generated images lie among real ones, from the balls around the images, with one pass over all pairs.

    Precision is the share of generated images in a real ball, recall vice versa (Kynkaanniemi et al. 2019,
    arXiv:1904.06991, eq. 1-2). Density counts the real balls that hold a generated image, per k, on average over the
    generated images; coverage is the share of real balls that hold one (Naeem et al. 2020, arXiv:2002.09797, eq. 3-4).
    Outliers among the real images raise precision, but hardly density; outliers among the generated ones raise recall,
    but not coverage.
    """
    precise, held = 0, 0
    is_recalled = torch.zeros(len(real.features), dtype=torch.bool)
    is_covered = is_recalled.clone()
    parts = (torch.split(rows, chunk) for rows in (fake.features, fake.radii))
    for features, radii in zip(*parts, strict=True):
        distances = _distances(features, real.features)  # [n, N]
        precise += int((distances <= real.radii).any(1).sum())
        is_recalled |= (distances <= radii[:, None]).any(0)
        is_inside = distances < real.wide_radii
        held += int(is_inside.sum())
        is_covered |= is_inside.any(0)
    count = len(fake.features)
    return ManifoldFigures(
        precise / count,
        is_recalled.double().mean().item(),
        held / (real.coverage_k * count),
        is_covered.double().mean().item(),
    )


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """[N, M], by matrix products; in float64, because small differences of large squares matter."""
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")
