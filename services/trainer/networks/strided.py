"""Convolutions that change an image's size; each chooses how it multiplies when it is built.

The parameters are those of the torch layer with the same filters, so checkpoints do not depend on the choice. Results
differ by rounding only.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks.cpu.resample import double_filters, halve_filters
from services.trainer.networks.cpu.winograd import conv4x4, conv_transpose4x4, lay_out_weight

# With fewer channels, Winograd's transforms cost more than its products save: docs/explanation/performance.md. Wide
# vectors speed up oneDNN's convolutions, but not the transforms, which wait for memory.
MIN_WINOGRAD_CHANNELS = 128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 16

# In bf16, adding up the taps takes longer than the saved products for smaller images: docs/explanation/performance.md.
MIN_BF16_RESAMPLE_PX = 16

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Products:
    """The algorithms that convolutions may use in place of torch's own. They are faster on a CPU."""

    winograd: bool = False  # 4x4 convolutions as matrix products: cpu/winograd.py
    resample: bool = False  # upsampling and pooling merged with 3x3 convolutions: cpu/resample.py


PLAIN_PRODUCTS = Products()


class Conv4x4(nn.Conv2d):
    """A 4x4 convolution that halves an image: [N, C, H, W] -> [N, D, H/2, W/2]."""

    def __init__(self, c_in: int, c_out: int, products: Products) -> None:
        super().__init__(c_in, c_out, 4, 2, 1, bias=False)
        self.is_fast = products.winograd and min(c_in, c_out) >= MIN_WINOGRAD_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        return conv4x4(x, self.weight) if self.is_fast else super().forward(x)


class ConvTranspose4x4(nn.ConvTranspose2d):
    """A transposed 4x4 convolution that doubles an image: [N, C, H, W] -> [N, D, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, products: Products) -> None:
        super().__init__(c_in, c_out, 4, 2, 1, bias=False)
        self.is_fast = products.winograd and min(c_in, c_out) >= MIN_WINOGRAD_CHANNELS

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return conv_transpose4x4(x, self.weight) if self.is_fast else super().forward(x, output_size)


class LatentsTo4x4(nn.ConvTranspose2d):
    """A transposed convolution of a single pixel: [N, latent, 1, 1] -> [N, D, 4, 4]. Fast: one matrix product."""

    def __init__(self, latent_dim: int, c_out: int, products: Products) -> None:
        super().__init__(latent_dim, c_out, 4, 1, 0, bias=False)
        self.is_fast = products.winograd

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not self.is_fast:
            return super().forward(x, output_size)
        pixels = x.flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten(1)  # [N, latent] -> [N, 4 * 4 * D]
        return pixels.view(-1, 4, 4, self.out_channels).permute(0, 3, 1, 2)


class ScoreOf4x4(nn.Conv2d):
    """A convolution that sees the image at once: [N, C, 4, 4] -> [N, 1, 1, 1]. Fast: one matrix product."""

    def __init__(self, c_in: int, products: Products) -> None:
        super().__init__(c_in, 1, 4, 1, 0, bias=False)
        self.is_fast = products.winograd

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_fast:
            return super().forward(x)
        scores = x.permute(0, 2, 3, 1).flatten(1) @ self.weight.permute(0, 2, 3, 1).flatten()  # [N]
        return scores.view(-1, 1, 1, 1)


class UpsampledConv3x3(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution: [N, C, H, W] -> [N, D, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, products: Products) -> None:
        super().__init__(c_in, c_out, 3, padding=1)
        self.is_fast = products.resample

    def forward(self, x: Tensor) -> Tensor:
        if self.is_fast and _saves_time(x, large_px=2 * x.shape[3]):
            return F.conv_transpose2d(x, double_filters(self.weight), self.bias, stride=2, padding=1)
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PooledConv3x3(nn.Conv2d):
    """A 3x3 convolution, then the mean over 2x2 pixels: [N, C, H, W] -> [N, D, H/2, W/2]."""

    def __init__(self, c_in: int, c_out: int, products: Products) -> None:
        super().__init__(c_in, c_out, 3, padding=1)
        self.is_fast = products.resample

    def forward(self, x: Tensor) -> Tensor:
        if self.is_fast and _saves_time(x, large_px=x.shape[3]):
            return F.conv2d(x, halve_filters(self.weight), self.bias, stride=2, padding=1)
        return F.avg_pool2d(super().forward(x), 2)


def _saves_time(x: Tensor, large_px: int) -> bool:
    return large_px >= MIN_BF16_RESAMPLE_PX or x.dtype == torch.float32


def lay_out_weights(network: nn.Module) -> None:
    """Reorders weights in memory for Winograd's products; their values stay the same."""
    for module in network.modules():
        # Spectral norm computes the weight anew in each step, so its order cannot be chosen here.
        if isinstance(module, Conv4x4) and module.is_fast and "weight" in module._parameters:
            module.weight.data = lay_out_weight(module.weight.data)


def with_plain_products(network: Network) -> Network:
    """A copy that uses torch's own convolutions, which can be exported."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(
            module, Conv4x4 | ConvTranspose4x4 | LatentsTo4x4 | ScoreOf4x4 | UpsampledConv3x3 | PooledConv3x3
        ):
            module.is_fast = False
    return network
