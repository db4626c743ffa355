"""Detects mode collapse by three signals: low diversity, few classes, and low recall of the real images.

Definition: Goodfellow 2016, arXiv:1701.00160, section 5.1.1. Origin of the thresholds:
docs/explanation/decisions/0012-mode-collapse.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import Sampler
from services.trainer.metrics.distances import manifold_figures, neighbourhoods
from services.trainer.metrics.extractor import Extracted
from services.trainer.training.state import TrainState
from shared.jobs.trainer_messages import SendEvent

SIGNAL_IMAGES = 1000  # real and generated ones each; more do not change the signals
PIXEL_IMAGES = 200  # real ones for pixel distances, which cost more than feature distances
NEIGHBOURS = 3
EARLY = 0.1  # share of the budget without warnings: images of an untrained generator look alike, too

# Two signals below their threshold are a collapse; a single one can have another cause.
THRESHOLDS = {"diversity": 0.5, "class_coverage": 0.5, "recall": 0.25}
GRID_THRESHOLD = 0.25  # if only pixels are available


def collapse_signals(fake: Extracted, real: Extracted, *, conditional: bool) -> dict[str, float]:
    """`recall`, `diversity` and `class_coverage` of generated images, from a classifier's features and predictions.

    The last two are relative to real images, so 1 is ideal. A conditional model can collapse within each class, so its
    distances are measured within classes.
    """
    fake, real = fake.sample(SIGNAL_IMAGES), real.sample(SIGNAL_IMAGES)
    real_balls, fake_balls = (neighbourhoods(side.features, NEIGHBOURS, NEIGHBOURS) for side in (real, fake))
    labels = (fake.labels, real.labels) if conditional else (None, None)
    return {
        "recall": manifold_figures(real_balls, fake_balls).recall,
        "diversity": ratio(mean_distance(fake.features, labels[0]), mean_distance(real.features, labels[1])),
        "class_coverage": effective_classes(fake.logits.argmax(1)) / effective_classes(real.logits.argmax(1)),
    }


def mean_distance(points: Tensor, labels: Tensor | None = None) -> float:
    """Mean distance between points [N, D]; with labels [N], between points of one label, averaged over labels.

    0 if no two points can be compared.
    """
    labels = torch.zeros(len(points), dtype=torch.int64) if labels is None else labels
    groups = [points[labels == label] for label in range(int(labels.max()) + 1)]
    means = [torch.pdist(group.double()).mean() for group in groups if len(group) > 1]
    return float(torch.stack(means).mean()) if means else 0.0


def ratio(fake: float, real: float) -> float:
    """Diversity of the generated images relative to the real ones; 1 if the real ones have none."""
    return fake / real if real > 0 else 1.0


def effective_classes(predictions: Tensor) -> float:
    """exp of the entropy of the class histogram; k equally frequent classes give k."""
    frequencies = torch.bincount(predictions).double() / len(predictions)
    return float(torch.special.entr(frequencies).sum().exp())


def is_collapsed(row: dict[str, float]) -> bool:
    """Whether two signals in a metrics row are below their thresholds; a row without signals is no collapse."""
    return sum(name in row and row[name] < threshold for name, threshold in THRESHOLDS.items()) >= 2


class CollapseWatch:
    """Sends one `mode_collapse` event when a run collapses, and another if it recovers and collapses again."""

    def __init__(self, state: TrainState, send_event: SendEvent) -> None:
        self._state, self._send_event = state, send_event
        self._is_collapsed = False

    def on_metrics(self) -> None:
        """Call it after each row of the metrics series; rows without signals are skipped."""
        row = self._state.metrics[-1]
        if "diversity" in row:
            values = (f"{name} {row[name]:.2g} (threshold {limit:g})" for name, limit in THRESHOLDS.items())
            self._update(is_collapsed(row), ", ".join(values))

    def on_sample_grid(self, images: Tensor, dataset: ImageDataset) -> None:
        """Call it with each sample grid [100, 3, H, W]; used only if the run has no classifier-based signals."""
        if self._state.config.eval_images == 0:
            diversity = grid_diversity(images, dataset, conditional=self._state.config.conditional)
            cause = f"pixel diversity of the sample grid {diversity:.2g} (threshold {GRID_THRESHOLD:g})"
            self._update(diversity < GRID_THRESHOLD, cause)

    def _update(self, is_collapsed: bool, cause: str) -> None:
        if self._state.schedule_nimg < EARLY * self._state.config.total_nimg:
            return
        if is_collapsed and not self._is_collapsed:
            nimg = self._state.cur_nimg
            self._send_event("mode_collapse", f"mode collapse after {nimg:,} images: {cause}", nimg=nimg)
        self._is_collapsed = is_collapsed


def grid_diversity(images: Tensor, dataset: ImageDataset, *, conditional: bool) -> float:
    """Mean pixel distance within a sample grid uint8 [N, 3, H, W], relative to real images."""
    chosen = Sampler(len(dataset), seed=0).batch(0, min(PIXEL_IMAGES, len(dataset))).to(dataset.images.device)
    real, labels = dataset.images[chosen].cpu(), dataset.labels[chosen].cpu()
    rows = torch.arange(len(images)) // 10 % len(dataset.classes)  # the classes of a grid, see sampling.sample_grid
    grouped = (rows, labels) if conditional else (None, None)
    return ratio(mean_distance(images.flatten(1), grouped[0]), mean_distance(real.flatten(1), grouped[1]))
