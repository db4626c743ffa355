"""Mode collapse, seen by three signs: images all alike, few of the classes, and little of the real images recalled.

What it is: Goodfellow 2016, arXiv:1701.00160, section 5.1.1. Where the thresholds come from:
docs/explanation/decisions/0012-mode-collapse.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from services.trainer.data.datasets import ImageDataset, Sampler
from services.trainer.metrics.distances import precision_and_recall
from services.trainer.metrics.extractor import Extracted
from services.trainer.training.state import TrainState

SIGN_IMAGES = 1000  # of either side; all pairs of more say the same
PIXEL_IMAGES = 200  # real ones, where it is pixels that are compared: they are many more than features
NEIGHBOURS = 3
EARLY = 0.1  # share of the budget in which nothing is said: an untrained generator's images are all alike, too

# Below two of these it is a collapse: each by itself can have another cause.
LEAST = {"diversity": 0.5, "class_coverage": 0.5, "recall": 0.25}
LEAST_OF_GRID = 0.25  # where there are pixels only

Tell = Callable[..., None]  # (kind of event, message, **data)


def signs(fake: Extracted, real: Extracted, *, conditional: bool) -> dict[str, float]:
    """`recall`, `diversity` and `class_coverage` of generated images, by the features and guesses of a classifier.

    The latter two are shares of what real images have, so that 1 is as it should be.
    A conditional model can collapse within each class, so its distances are taken within classes.
    """
    fake, real = _some(fake), _some(real)
    _, recall = precision_and_recall(real.features, fake.features, NEIGHBOURS)
    kinds = (fake.labels, real.labels) if conditional else (None, None)
    return {
        "recall": recall,
        "diversity": share(mean_distance(fake.features, kinds[0]), mean_distance(real.features, kinds[1])),
        "class_coverage": effective_classes(fake.logits.argmax(1)) / effective_classes(real.logits.argmax(1)),
    }


def mean_distance(points: Tensor, labels: Tensor | None = None) -> float:
    """Mean distance of two of the points [N, D]; with labels [N], of two of the same label, averaged over labels.

    0 where there are no two.
    """
    labels = torch.zeros(len(points), dtype=torch.int64) if labels is None else labels
    groups = [points[labels == label] for label in range(int(labels.max()) + 1)]
    means = [torch.pdist(group.double()).mean() for group in groups if len(group) > 1]
    return float(torch.stack(means).mean()) if means else 0.0


def share(fake: float, real: float) -> float:
    """How much of the real images' diversity there is; all of it where they have none."""
    return fake / real if real > 0 else 1.0


def effective_classes(guesses: Tensor) -> float:
    """exp of the entropy of the class histogram: of k classes in equal shares it is k."""
    shares = torch.bincount(guesses).double() / len(guesses)
    return float(torch.special.entr(shares).sum().exp())


def is_collapsed(row: dict[str, float]) -> bool:
    """Whether the signs in a row of the metrics series say so; a row without them does not."""
    return sum(name in row and row[name] < least for name, least in LEAST.items()) >= 2


class CollapseWatch:
    """Tells a `mode_collapse` event when a run collapses: once, and again if it had recovered in between."""

    def __init__(self, state: TrainState, tell: Tell) -> None:
        self._state, self._tell = state, tell
        self._is_told = False

    def on_metrics(self) -> None:
        """Call it after each row of the metrics series; only those with the signs count."""
        row = self._state.metrics[-1]
        if "diversity" in row:
            told = ", ".join(f"{name} {row[name]:.2g} (least {least:g})" for name, least in LEAST.items())
            self._judge(is_collapsed(row), told)

    def look_at_grid(self, images: Tensor, dataset: ImageDataset) -> None:
        """Call it with each sample grid [100, 3, H, W]: without a classifier, distances of pixels have to do."""
        if self._state.config.eval_images == 0:
            found = grid_diversity(images, dataset, conditional=self._state.config.conditional)
            how = f"diversity {found:.2g} in the pixels of the sample grid (least {LEAST_OF_GRID:g})"
            self._judge(found < LEAST_OF_GRID, how)

    def _judge(self, is_so: bool, how: str) -> None:
        if self._state.schedule_nimg < EARLY * self._state.config.total_nimg:
            return
        if is_so and not self._is_told:
            nimg = self._state.cur_nimg
            self._tell("mode_collapse", f"after {nimg:,} images the generator has collapsed: {how}", nimg=nimg)
        self._is_told = is_so


def grid_diversity(images: Tensor, dataset: ImageDataset, *, conditional: bool) -> float:
    """Mean distance of two images of a sample grid uint8 [N, 3, H, W], as a share of that of two real ones."""
    chosen = Sampler(len(dataset), seed=0).batch(0, min(PIXEL_IMAGES, len(dataset))).to(dataset.images.device)
    real, labels = dataset.images[chosen].cpu(), dataset.labels[chosen].cpu()
    rows = torch.arange(len(images)) // 10 % len(dataset.classes)  # the classes of a grid, see sampling.sample_grid
    kinds = (rows, labels) if conditional else (None, None)
    return share(mean_distance(images.flatten(1), kinds[0]), mean_distance(real.flatten(1), kinds[1]))


def _some(extracted: Extracted) -> Extracted:
    chosen = Sampler(len(extracted), seed=0).batch(0, min(SIGN_IMAGES, len(extracted)))
    return Extracted(extracted.features[chosen], extracted.logits[chosen], extracted.labels[chosen])
