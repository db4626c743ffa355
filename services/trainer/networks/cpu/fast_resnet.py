"""The forward passes of networks/resnet.py, the same modules and the same numbers, with doubling and halving folded in.

Each pixel that nearest doubling repeats is multiplied anew by every tap that sees it, and of four outputs that are
averaged each is computed. The taps can be added up beforehand instead: a 3x3 convolution of the doubled image is a
transposed one of 4x4 with stride two, and the mean of a 3x3 convolution's outputs is one of 4x4 with stride two
("fused scale", Karras et al. 2018, arXiv:1710.10196, in their code). Both have 4/9 of the multiplications, and the
large image between is never there.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks import resnet

SMALLEST_PX_IN_BF16 = 16


def generate(network: resnet.Generator, z: Tensor, labels: Tensor) -> Tensor:
    """What `network(z, labels)` returns."""
    x = network.linear(z).view(-1, network.first_channels, 4, 4)
    for block in cast(list[resnet.GeneratorBlock], list(network.blocks)):
        h = block.norm1(x, labels).relu_()
        h = block.conv2(block.norm2(_convolve_doubled(h, block.conv1), labels).relu_())
        x = h + F.interpolate(block.shortcut(x), scale_factor=2.0, mode="nearest")
    return cast(Tensor, network.to_rgb(network.norm(x).relu_())).tanh()


def judge(network: resnet.Discriminator, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """What `network.judge(images, labels)` returns."""
    x = images
    for block in cast(list[resnet.DiscriminatorBlock], list(network.blocks)):
        h = block.conv1(x if block.is_first else x.relu()).relu_()
        h = block.conv2(h) if isinstance(block.shrink, nn.Identity) else _convolve_halved(h, block.conv2)
        x = h + block.shortcut(block.shrink(x))
    return network.judge_features(x.relu().sum((2, 3)), labels)  # [N, C, H, W] -> [N, C]


def _convolve_doubled(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    if not _is_worth_it(x, large_px=2 * x.shape[3]):
        return cast(Tensor, convolution(F.interpolate(x, scale_factor=2.0, mode="nearest")))
    return F.conv_transpose2d(x, double_filters(convolution.weight), convolution.bias, stride=2, padding=1)


def _convolve_halved(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    if not _is_worth_it(x, large_px=x.shape[3]):
        return F.avg_pool2d(convolution(x), 2)
    return F.conv2d(x, halve_filters(convolution.weight), convolution.bias, stride=2, padding=1)


def _is_worth_it(x: Tensor, large_px: int) -> bool:
    """In bf16, adding up the taps takes longer than it saves on small images: docs/explanation/performance.md."""
    return large_px >= SMALLEST_PX_IN_BF16 or x.dtype == torch.float32


def double_filters(weight: Tensor) -> Tensor:
    """[D, C, 3, 3] -> [C, D, 4, 4]: `conv2d` of the doubled image, padding 1, as `conv_transpose2d`, stride 2."""
    return _spread(weight.flip(2, 3)).transpose(0, 1)


def halve_filters(weight: Tensor) -> Tensor:
    """[D, C, 3, 3] -> [D, C, 4, 4]: `conv2d`, padding 1, and a mean over 2x2, as `conv2d`, stride 2, padding 1."""
    return _spread(weight) / 4


def _spread(weight: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4, 4]: the filters at each of four neighbouring places, added up."""
    for dim in (2, 3):
        left, right = ((0, 1), (1, 0)) if dim == 3 else ((0, 0, 0, 1), (0, 0, 1, 0))
        weight = F.pad(weight, left) + F.pad(weight, right)
    return weight
