"""Rewrites a trained generator for inference: the same images with fewer layers and multiplications.

Constants are computed once, in double precision: batch norm is merged into the class tables or into the convolution
before it, and upsampling into the convolution after it. The forms were chosen by their speed in onnxruntime on a CPU;
see docs/explanation/serving.md.
"""

from __future__ import annotations

import copy
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks import dcgan, keras_dcgan, resnet
from services.trainer.networks.cpu.resample import double_filters
from services.trainer.networks.layers import ConditionalBatchNorm2d

MIN_CHANNELS = 16  # onnxruntime computes 16 output channels at a time; with 3, most of that work is wasted
PHASES = tuple(product((0, 1), repeat=2))  # (row, column) of a pixel within its 2x2 square


def fuse_for_inference(generator: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU that generates the same images; unknown networks are only copied."""
    network = copy.deepcopy(generator).cpu().eval().to(memory_format=torch.contiguous_format).requires_grad_(False)
    if isinstance(network, resnet.Generator):
        network.blocks = nn.ModuleList(_Block(cast(resnet.GeneratorBlock, block)) for block in network.blocks)
        last = cast(_Block, network.blocks[-1])
        _scale_outputs(last, network.norm)
        network.norm = nn.Identity()  # type: ignore[assignment]
        network.to_rgb = _SquareBySquare(network.to_rgb)  # type: ignore[assignment]
    elif isinstance(network, dcgan.Generator):
        _fuse_dcgan(network)
    elif isinstance(network, keras_dcgan.Generator):
        network.to_rgb = _SquareBySquare(network.to_rgb)  # type: ignore[assignment]
    return network


class _ClassAffine(nn.Module):
    """Conditional batch norm merged with its statistics: scale[y] * x + shift[y]."""

    def __init__(self, norm: ConditionalBatchNorm2d) -> None:
        super().__init__()
        by_class, shift_by_class = cast(nn.Embedding, norm.scale).weight, cast(nn.Embedding, norm.shift).weight
        scale, shift = _affine(norm.norm)  # [C] each
        self.scale = nn.Parameter((by_class * scale).float())  # [classes, C]
        self.shift = nn.Parameter((shift_by_class + by_class * shift).float())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = F.embedding(labels, self.scale), F.embedding(labels, self.shift)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class _NoNorm(nn.Module):
    """Replaces a norm that was merged into the convolution before it."""

    def forward(self, x: Tensor, _labels: Tensor) -> Tensor:
        return x


class _Doubling(nn.Module):
    """A transposed 4x4 convolution of stride 2 as four 2x2 convolutions, one per pixel of each 2x2 output square.

    Filters [C, D, 4, 4], bias [D]: [N, C, H, W] -> [N, D, 2H, 2W].
    """

    def __init__(self, filters: Tensor, bias: Tensor) -> None:
        super().__init__()
        taps = filters.transpose(0, 1).flip(2, 3).float()  # [D, C, 4, 4]
        self.filters = nn.ParameterList(taps[:, :, row::2, column::2].contiguous() for row, column in PHASES)
        self.bias = nn.Parameter(bias.float())

    def forward(self, x: Tensor) -> Tensor:
        images = []
        for (row, column), filters in zip(PHASES, self.filters, strict=True):
            # Upper output pixels use the input row above, lower ones the row below.
            padded = F.pad(x, (1 - column, column, 1 - row, row))
            images.append(F.conv2d(padded, filters, self.bias))
        return _interleave(images)


class _SquareBySquare(nn.Module):
    """A 3x3 convolution to few channels as a 4x4 convolution of stride 2 that computes four pixels at once.

    With three colours it uses 12 of 16 SIMD lanes instead of 3: [N, C, H, W] -> [N, D, H, W].
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight  # [D, C, 3, 3], placed in the 4x4 window of each pixel
        windows = [F.pad(weight, (column, 1 - column, row, 1 - row)) for row, column in PHASES]
        self.filters = nn.Parameter(torch.cat(windows))
        self.bias = nn.Parameter(cast(Tensor, convolution.bias).repeat(len(PHASES)))

    def forward(self, x: Tensor) -> Tensor:
        squares = F.conv2d(x, self.filters, self.bias, stride=2, padding=1)  # [N, 4 * D, H / 2, W / 2]
        return _interleave(list(squares.chunk(len(PHASES), dim=1)))


class _Block(nn.Module):
    """Computes what resnet.GeneratorBlock computes."""

    def __init__(self, block: resnet.GeneratorBlock) -> None:
        super().__init__()
        filters, bias = double_filters(block.conv1.weight.double()), cast(Tensor, block.conv1.bias).double()
        self.norm1 = block.norm1 if block.norm1.scale is None else _ClassAffine(block.norm1)
        self.conv1, self.norm2 = _doubling_and_norm(filters, bias, block.norm2)
        self.conv2, self.shortcut = block.conv2, block.shortcut

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, labels).relu())
        h = cast(Tensor, self.conv2(self.norm2(h, labels).relu()))
        return h + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")


def _fuse_dcgan(network: dcgan.Generator) -> None:
    for i, norm in enumerate(cast(list[ConditionalBatchNorm2d], list(network.norms))):
        convolution = cast(nn.ConvTranspose2d, network.convolutions[i])
        if convolution.stride == (2, 2) and convolution.out_channels >= MIN_CHANNELS:
            filters = convolution.weight.double()
            bias = torch.zeros(convolution.out_channels, dtype=torch.float64)
            network.convolutions[i], network.norms[i] = _doubling_and_norm(filters, bias, norm)
        elif norm.scale is not None:
            network.norms[i] = _ClassAffine(norm)


def _doubling_and_norm(filters: Tensor, bias: Tensor, norm: ConditionalBatchNorm2d) -> tuple[_Doubling, nn.Module]:
    """Filters [C, D, 4, 4] and bias [D] in double precision; an unconditional norm is merged into them."""
    if norm.scale is not None:
        return _Doubling(filters, bias), _ClassAffine(norm)
    scale, shift = _affine(norm.norm)
    return _Doubling(filters * scale[:, None, None], bias * scale + shift), _NoNorm()


def _scale_outputs(block: _Block, norm: nn.BatchNorm2d) -> None:
    """Merges the norm after a block into both summands of the block."""
    scale, shift = _affine(norm)
    for convolution, extra in ((block.conv2, shift), (block.shortcut, torch.zeros_like(shift))):
        convolution.weight.copy_(convolution.weight * scale[:, None, None, None])
        cast(Tensor, convolution.bias).copy_(cast(Tensor, convolution.bias) * scale + extra)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale [C], shift [C]) of batch norm in evaluation mode, in double precision."""
    mean, variance = cast(Tensor, norm.running_mean).double(), cast(Tensor, norm.running_var).double()
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def _interleave(images: list[Tensor]) -> Tensor:
    """The four pixels of each square [N, D, H, W], in the order of PHASES -> [N, D, 2H, 2W].

    Exported as Concat: onnxruntime's DepthToSpace and Transpose take several times as long for pairs of floats.
    """
    channels, height, width = images[0].shape[1:]
    upper, lower = (torch.stack(images[i : i + 2], dim=4).flatten(3) for i in (0, 2))  # [N, D, H, 2W]
    return torch.cat((upper, lower), dim=3).reshape(-1, channels, 2 * height, 2 * width)
