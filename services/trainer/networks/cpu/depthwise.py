"""Depthwise convolutions with frozen weights whose backward pass is as fast on a CPU as their forward pass.

The gradient of a convolution with respect to its input is a convolution with the mirrored kernel. oneDNN has a fast
forward kernel for depthwise convolutions in bf16, and a slow one for their gradient; so the gradient is computed as a
forward convolution here. The weights get no gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def frozen_depthwise(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """`F.conv2d` with one filter per channel and padding k // 2: [N, C, H, W], [C, 1, k, k] -> [N, C, H/s, W/s].

    `stride` is 1 or 2; with 2, H and W are even. Differentiable once, with respect to `x` only.
    """
    return cast(Tensor, _FrozenDepthwise.apply(x, weight, bias, stride))


class _FrozenDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride = x.shape, stride
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        if ctx.stride == 2:  # zeros between the gradients undo the stride
            count, channels, height, width = ctx.shape
            spread = grad.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)  # channels last in memory
            spread[:, :, ::2, ::2] = grad
            grad = spread
        return F.conv2d(grad, weight.flip(2, 3), None, 1, weight.shape[-1] // 2, groups=len(weight)), None, None, None
