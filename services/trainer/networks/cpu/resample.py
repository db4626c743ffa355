"""Filters that merge nearest-neighbour upsampling or mean pooling with the adjacent 3x3 convolution.

Upsampling repeats each pixel, and every tap that covers a copy multiplies it again. Pooling computes four outputs and
keeps their mean. Adding up the taps beforehand saves both: a 3x3 convolution of an upsampled image equals a
transposed 4x4 convolution with stride two, and the 2x2 mean of a 3x3 convolution equals a 4x4 convolution with stride
two ("fused scale", Karras et al. 2018, arXiv:1710.10196, in their code). Both need 4/9 of the multiplications, and
neither stores the large intermediate image.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def double_filters(weight: Tensor) -> Tensor:
    """[D, C, 3, 3] -> [C, D, 4, 4]: `conv2d` of the doubled image, padding 1, as `conv_transpose2d`, stride 2."""
    return _spread(weight.flip(2, 3)).transpose(0, 1)


def halve_filters(weight: Tensor) -> Tensor:
    """[D, C, 3, 3] -> [D, C, 4, 4]: `conv2d`, padding 1, and a mean over 2x2, as `conv2d`, stride 2, padding 1."""
    return _spread(weight) / 4


def _spread(weight: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4, 4]: the sum of the filters at each of four neighbouring places."""
    for dim in (2, 3):
        left, right = ((0, 1), (1, 0)) if dim == 3 else ((0, 0, 0, 1), (0, 0, 1, 0))
        weight = F.pad(weight, left) + F.pad(weight, right)
    return weight
