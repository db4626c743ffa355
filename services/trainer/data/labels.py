"""Draws the classes of generated images, in the proportions of the training images.

The generator's training step, the batch statistics of an exported model and its evaluation follow this one rule. So
the discriminator sees as few generated images of a rare class as real ones, and FID compares like with like. With
`balance_classes`, a run trains on each class equally often, and so do its generated images; evaluation still compares
with the training images as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.trainer.data.sampler import Sampler


def draw_labels(labels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Labels [count] of images drawn with replacement from a data set with these `labels` [N], on their device."""
    return labels[torch.randint(len(labels), (count,), device=labels.device, generator=generator)]


def labels_in_proportion(labels: Tensor, count: int, seed: int) -> Tensor:
    """Labels [count] of images drawn without replacement, epoch after epoch: a pure function of `seed`, on the CPU."""
    return labels.cpu()[Sampler(len(labels), seed).batch(0, count)]
