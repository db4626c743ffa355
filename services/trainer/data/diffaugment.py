"""DiffAugment: augments the real and the generated images that a discriminator sees, differentiably.

Zhao et al. 2020, arXiv:2006.10738. With few training images a discriminator learns them by heart; augmented images are
many more. Gradients reach the generator through the augmentation, so that it learns to generate unaugmented images.
Two differences from the paper, so that the generator does not learn to draw augmented images: each augmentation is
applied with a probability, and a translated image continues with its own mirror image instead of black.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from services.trainer.data.augment import pick

# The paper's strengths, as shares of the image's side.
TRANSLATION = 1 / 8
CUTOUT = 1 / 2

Draw = Callable[[], Tensor]  # -> [N], uniform in [0, 1)


def diffaugment(images: Tensor, policy: Sequence[str], probability: float, draw: Draw) -> Tensor:
    """Applies each augmentation of `policy` to each image [N, C, H, W] in [-1, 1] with `probability`."""
    if "color" in policy:
        images = _choose(change_color(images, draw(), draw(), draw()), images, draw() < probability)
    if "translation" in policy:
        images = translate(images, *_offsets(images.shape[-1], draw(), draw(), draw() < probability))
    if "cutout" in policy:
        images = cut_out(images, draw(), draw(), draw() < probability)
    return images


def change_color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Adds up to 0.5, multiplies the distance to grey by 0 to 2, then that to the image's mean by 0.5 to 1.5.

    The three [N] are uniform in [0, 1).
    """
    images = images + _per_image(brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * _per_image(2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _per_image(contrast + 0.5) + mean


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moves image i by `down[i]` and `right[i]` pixels; it continues with its mirror image."""
    height, width = images.shape[2:]
    rows = _mirrored(torch.arange(height, device=images.device) - down[:, None], height)  # [N, H]
    columns = _mirrored(torch.arange(width, device=images.device) - right[:, None], width)  # [N, W]
    return pick(images, rows, columns)


def cut_out(images: Tensor, down: Tensor, right: Tensor, chosen: Tensor) -> Tensor:
    """Greys out a square of half the side, whose centre `down`, `right` [N] is a share of the image's side."""
    height, width = images.shape[2:]
    half = CUTOUT / 2
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    in_rows = (rows - down[:, None]).abs() < half  # [N, H]
    in_columns = (columns - right[:, None]).abs() < half  # [N, W]
    is_cut = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
    return images * ~is_cut[:, None]


def _offsets(side: int, down: Tensor, right: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Whole pixels from -side / 8 to side / 8; 0 where not chosen."""
    reach = int(side * TRANSLATION)
    rows, columns = ((share * (2 * reach + 1)).long().sub(reach).mul(chosen) for share in (down, right))
    return rows, columns


def _mirrored(index: Tensor, length: int) -> Tensor:
    """Positions outside 0 .. length - 1, reflected at the first and the last pixel."""
    return length - 1 - (length - 1 - index.abs()).abs()


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _choose(changed: Tensor, images: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(_per_image(chosen), changed, images)
