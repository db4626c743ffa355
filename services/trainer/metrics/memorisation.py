"""Measures whether a generator copies its training images, and finds the generated images that are nearest to one.

Distances are Euclidean, between features. Real images that the generator was not trained on show how near an image
comes that is no copy: the test images, or, if there are fewer than MIN_REFERENCE, training images and their nearest
other training image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from services.trainer.data.labels import labels_in_proportion
from services.trainer.metrics.evaluation import Evaluator, Generator, generate
from services.trainer.metrics.extractor import BATCH, extract
from shared.configs.train import TrainConfig
from shared.storage.model_registry import Memorisation

SAMPLE = 1000  # images of each kind that are compared with the training images
MIN_REFERENCE = 100
PAIRS = 10  # in the picture
COPY_QUANTILE = 0.01  # an image counts as a copy if it is as near as the nearest 1 % of real images
MAX_COPIED_SHARE = 0.05  # five times the share of real images
SEED = 1  # other images than those of the metrics
CHUNK = 8192  # training images that are compared at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest training image of each of N images, and the distance to it. Tensors [N]."""

    indices: Tensor
    distances: Tensor


@dataclass(frozen=True)
class Reference:
    """Real images that the generator cannot have copied. Tensors [N]."""

    split: Literal["test", "train"]
    distances: Tensor  # to the nearest training image, or the nearest other one
    authenticity: float


def memorisation_of(evaluator: Evaluator, generator: Generator, config: TrainConfig) -> tuple[Memorisation, Tensor]:
    """The figures for the manifest, and the nearest pairs [20, C, H, W] uint8: generated images, then their nearest
    training images, in the same order.
    """
    if isinstance(generator, nn.Module):
        generator.eval()
    judge = evaluator.judges[-1]  # ImageNet's features, if there are two: they see more than what tells classes apart
    count = min(SAMPLE, config.eval_images)
    labels = labels_in_proportion(evaluator.dataset.labels, count, SEED)
    batches = generate(generator, config.latent_dim, labels, SEED, judge.extractor.device)
    images = torch.cat([batch.cpu() for batch, _ in batches])
    parts = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    features = extract(judge.extractor, parts).features
    training = judge.reference.features
    neighbours = nearest(features, training)
    reference = reference_of(None if judge.test is None else judge.test.features, training)
    figures = describe(neighbours, reference, training)
    pairs = neighbours.distances.argsort()[:PAIRS]
    real = evaluator.dataset.images[neighbours.indices[pairs].to(evaluator.dataset.images.device)]
    return (
        figures.model_copy(update={"extractor": judge.extractor.as_protocol(), "seed": SEED}),
        torch.cat([images[pairs], real.cpu()]),
    )


def describe(neighbours: Neighbours, reference: Reference, training: Tensor) -> Memorisation:
    """The figures, with a warning if too many images are copies."""
    limit = reference.distances.quantile(COPY_QUANTILE)
    copied_share = (neighbours.distances <= limit).double().mean().item()
    warning = None
    if copied_share > MAX_COPIED_SHARE:
        kind = "test images" if reference.split == "test" else "training images are to each other"
        warning = (
            f"the model copies training images: {copied_share:.0%} of {len(neighbours.distances):,} generated images "
            f"are as near to one as the nearest {COPY_QUANTILE:.0%} of real {kind}; compare them in neighbours.png"
        )
    return Memorisation(
        images=len(neighbours.distances),
        authenticity=authenticity(neighbours, training),
        copied_share=copied_share,
        nearer_share=share_nearer(neighbours.distances, reference.distances),
        reference=reference.split,
        reference_images=len(reference.distances),
        reference_authenticity=reference.authenticity,
        warning=warning,
    )


def reference_of(test: Tensor | None, training: Tensor) -> Reference:
    """The distances of real images: evenly spread test images [N, D], or training images if there are too few."""
    if test is not None and len(test) >= MIN_REFERENCE:
        neighbours = nearest(test[_spread(len(test))], training)
        return Reference("test", neighbours.distances, authenticity(neighbours, training))
    own = _spread(len(training))
    neighbours = nearest(training[own], training, own)
    return Reference("train", neighbours.distances, authenticity(neighbours, training))


def nearest(features: Tensor, training: Tensor, own: Tensor | None = None) -> Neighbours:
    """The nearest of `training` [M, D] for each of `features` [N, D].

    With `own` [N], the features are those of these training images, and the nearest other one is found.
    """
    best = torch.full((len(features),), torch.inf)
    indices = torch.zeros(len(features), dtype=torch.int64)
    for start in range(0, len(training), CHUNK):
        distances = torch.cdist(features, training[start : start + CHUNK])  # [N, D], [C, D] -> [N, C]
        if own is not None:
            rows = ((own >= start) & (own < start + CHUNK)).nonzero().squeeze(1)
            distances[rows, own[rows] - start] = torch.inf
        values, positions = distances.min(dim=1)
        is_nearer = values < best
        best[is_nearer], indices[is_nearer] = values[is_nearer], positions[is_nearer] + start
    # cdist subtracts large products, so its small distances are rough; those of copies must be zero.
    return Neighbours(indices, (features - training[indices]).norm(dim=1))


def authenticity(neighbours: Neighbours, training: Tensor) -> float:
    """Share of images farther from their nearest training image than that is from its nearest other training image.

    Alaa et al. 2022, arXiv:2102.08921, section 4.3.
    """
    others = nearest(training[neighbours.indices], training, own=neighbours.indices)
    return (neighbours.distances > others.distances).double().mean().item()


def share_nearer(distances: Tensor, reference: Tensor) -> float:
    """Probability that one of `distances` [N] is smaller than one of `reference` [M]; equal ones count half.

    The U statistic of Meehan et al. 2020, arXiv:2004.05675, divided by N M.
    """
    smaller = (distances[:, None] < reference).double() + 0.5 * (distances[:, None] == reference).double()
    return smaller.mean().item()


def _spread(count: int) -> Tensor:
    """Up to SAMPLE indices below `count`, evenly spread."""
    return torch.linspace(0, count - 1, min(SAMPLE, count)).long()
