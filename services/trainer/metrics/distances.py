"""Computes FID, KID, Inception Score, precision, recall, density and coverage. Pure functions in float64.

Features are [N, D] of any float type, one row per image. Their order matters only for the Inception Score's splits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean [D] and unbiased covariance [D, D] of features, float64."""

    mean: Tensor
    covariance: Tensor


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
    cross = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    return float(shift + a.covariance.trace() + b.covariance.trace() - 2 * cross)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    # A covariance has no negative eigenvalues; rounding produces some of the order of 1e-16.
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


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


def precision_and_recall(real: Tensor, fake: Tensor, k: int = 3, chunk: int = 2000) -> tuple[float, float]:
    """Share of generated images inside the real manifold, and vice versa; Kynkaanniemi et al. 2019, arXiv:1904.06991.

    A manifold is the union of balls around its images, each reaching to the k-th nearest neighbour (eq. 1-2). `chunk`
    images are compared with all others at a time, which bounds the memory. Raises ValueError if real or generated
    images are k or fewer.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"precision needs more than {k} features; there are {len(real)} real and {len(fake)} generated"
        )
    real, fake = real.double(), fake.double()
    real_radii, fake_radii = _radii(real, k, chunk), _radii(fake, k, chunk)
    return _covered(fake, real, real_radii, chunk), _covered(real, fake, fake_radii, chunk)


def density_and_coverage(real: Tensor, fake: Tensor, k: int = 5, chunk: int = 2000) -> tuple[float, float]:
    """How densely generated images fill the real manifold, and how much of it; Naeem et al. 2020, arXiv:2002.09797.

    Density (eq. 3): real balls that hold a generated image, per k, on average over the generated images; about 1 for
    real images. Coverage (eq. 4): share of real images whose ball holds a generated one. Unlike precision and recall,
    neither depends on outliers among the generated images. Raises ValueError if real images are k or fewer.
    """
    if len(real) <= k:
        raise ValueError(f"density needs more than {k} real features; there are {len(real)}")
    real, fake = real.double(), fake.double()
    radii = _radii(real, k, chunk)
    counts, is_covered = 0.0, torch.zeros(len(real), dtype=torch.bool)
    for part in torch.split(fake, chunk):
        is_inside = _distances(part, real) < radii  # [n, N]
        counts += float(is_inside.sum())
        is_covered |= is_inside.any(0)
    return counts / (k * len(fake)), float(is_covered.double().mean())


def _radii(features: Tensor, k: int, chunk: int) -> Tensor:
    """Distance [N] of each row to its k-th neighbour; k + 1, because the nearest row is the row itself."""
    return torch.cat([_distances(part, features).kthvalue(k + 1).values for part in torch.split(features, chunk)])


def _covered(points: Tensor, centres: Tensor, radii: Tensor, chunk: int) -> float:
    hits = [(_distances(part, centres) <= radii).any(1) for part in torch.split(points, chunk)]
    return float(torch.cat(hits).double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """[N, M], by matrix products; in float64, because small differences of large squares matter."""
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")
