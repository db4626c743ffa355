"""EfficientNet-lite0 as a frozen feature extractor that gradients pass through: the eye of a projected discriminator.

Batch norms are merged into the convolutions, since their statistics never change: half the time, and results that
differ by rounding. The network is TensorFlow's, whose convolutions with stride two pad right and below only. On a
mirrored image with mirrored kernels that padding is symmetric, and needs no separate copy of the image; so all kernels
here are mirrored, and the features are those of the mirrored image (up and down, left and right), mirrored back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks.cpu.depthwise import frozen_depthwise
from services.trainer.networks.efficientnet import load_efficientnet

# Stages of the network after which Projected GANs read features (Sauer et al. 2021, arXiv:2111.01007, section 4.1), and
# their channels. Sizes are 1/4, 1/8, 1/16 and 1/32 of the image.
TAPS = {1: 24, 2: 40, 4: 112, 6: 320}


class FrozenFeatures(nn.Module):
    """images [N, 3, H, W] in [-1, 1], H and W divisible by 32 -> features of the first `count` taps."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        super().__init__()
        network: Any = load_efficientnet("lite0")
        self.dtype = dtype
        self.last_stages = list(TAPS)[:count]
        self.stem = FrozenConv(network.conv_stem, network.bn1, dtype, relu6=True)
        stages = list(network.blocks)[: self.last_stages[-1] + 1]
        self.stages = nn.ModuleList(nn.ModuleList(_frozen_block(block, dtype) for block in stage) for stage in stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images.to(self.dtype))
        features = []
        for index, stage in enumerate(self.stages):
            for block in cast(nn.ModuleList, stage):
                x = block(x)
            if index in self.last_stages:
                features.append(x)
        return features


class FrozenBlock(nn.Module):
    """An inverted residual block: a chain of convolutions, plus its input where the shapes agree."""

    def __init__(self, convolutions: Iterable[FrozenConv], *, is_residual: bool) -> None:
        super().__init__()
        self.chain = nn.Sequential(*convolutions)
        self.is_residual = is_residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.chain(x)
        return x + y if self.is_residual else y


class FrozenConv(nn.Module):
    """Convolution and batch norm in one, with the kernel mirrored; ReLU6 where the network has one.

    The weights are buffers outside the state dict: checkpoints do not repeat a file that never changes.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, *, relu6: bool) -> None:
        super().__init__()
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        weight = (conv.weight * scale[:, None, None, None]).flip(2, 3)
        bias = norm.bias - mean * scale
        self.register_buffer("weight", weight.detach().to(dtype), persistent=False)
        self.register_buffer("bias", bias.detach().to(dtype), persistent=False)
        self.stride, self.is_depthwise, self.relu6 = conv.stride[0], conv.groups > 1, relu6

    def forward(self, x: Tensor) -> Tensor:
        if self.is_depthwise:
            x = frozen_depthwise(x, self.weight, self.bias, self.stride)
        else:
            x = F.conv2d(x, self.weight, self.bias, self.stride, self.weight.shape[-1] // 2)
        return F.relu6(x) if self.relu6 else x


def _frozen_block(block: Any, dtype: torch.dtype) -> FrozenBlock:
    """One of timm's blocks: depthwise-separable (the first) or inverted residual (the others)."""
    if hasattr(block, "conv_pwl"):
        layers = [
            (block.conv_pw, block.bn1, True),
            (block.conv_dw, block.bn2, True),
            (block.conv_pwl, block.bn3, False),
        ]
    else:
        layers = [(block.conv_dw, block.bn1, True), (block.conv_pw, block.bn2, False)]
    convolutions = (FrozenConv(conv, norm, dtype, relu6=relu6) for conv, norm, relu6 in layers)
    return FrozenBlock(convolutions, is_residual=bool(block.has_skip))
