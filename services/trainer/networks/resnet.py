"""Small residual networks after SNGAN with projection (Miyato et al. 2018, arXiv:1802.05957 and 1802.05637).

The generator doubles the resolution in each block from 4x4 up; the discriminator halves it. The class enters by
conditional batch norm in the generator and by projection in the discriminator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks import discriminator
from services.trainer.networks.layers import ConditionalBatchNorm2d, add_spectral_norm
from services.trainer.networks.strided import PLAIN_PRODUCTS, PooledConv3x3, Products, UpsampledConv3x3
from shared.configs.train import TrainConfig


class GeneratorBlock(nn.Module):
    """Norm, ReLU, upsample, convolve; norm, ReLU, convolve; plus the shortcut. [N, C, H, W] -> [N, C', 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, num_classes: int | None, products: Products) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm2d(c_in, num_classes), ConditionalBatchNorm2d(c_out, num_classes)
        self.conv1 = UpsampledConv3x3(c_in, c_out, products)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, labels).relu_())
        h = cast(Tensor, self.conv2(self.norm2(h, labels).relu_()))
        # A 1x1 convolution and nearest upsampling commute; this order does a quarter of the work.
        return h + F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest")


class Generator(nn.Module):
    """z -> 4x4 -> a block per doubling -> H x W, tanh."""

    def __init__(self, config: TrainConfig, num_classes: int | None, products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels = config.g_channels
        self.first_channels = channels[0]
        self.linear = nn.Linear(config.latent_dim, channels[0] * 4 * 4)
        self.blocks = nn.ModuleList(
            GeneratorBlock(c_in, c_out, num_classes, products) for c_in, c_out in pairwise(channels)
        )
        self.norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], config.image_shape[0], 3, padding=1)
        initialize(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = self.linear(z).view(-1, self.first_channels, 4, 4)  # [N, latent] -> [N, C, 4, 4]
        for block in self.blocks:
            x = block(x, labels)
        return cast(Tensor, self.to_rgb(self.norm(x).relu_())).tanh()


class DiscriminatorBlock(nn.Module):
    """(ReLU) convolve, ReLU, convolve, halve; plus a halved shortcut. [N, C, H, W] -> [N, C', H/2, W/2].

    Without `halves` the size stays, and so does the shortcut, where the channels do too (SNGAN, table 4).
    """

    def __init__(self, c_in: int, c_out: int, products: Products, *, is_first: bool, halves: bool) -> None:
        super().__init__()
        self.is_first = is_first  # a ReLU before the first block would cut pixels below zero
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = PooledConv3x3(c_out, c_out, products) if halves else nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shrink = nn.AvgPool2d(2) if halves else nn.Identity()
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if halves or c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.is_first else x.relu())
        return cast(Tensor, self.conv2(h.relu_()) + self.shortcut(self.shrink(x)))


class Discriminator(discriminator.Discriminator):
    """Blocks, the first `d_halvings` of which halve, ReLU, sum over pixels, score + class. [N, C, H, W] -> [N]."""

    def __init__(self, config: TrainConfig, num_classes: int | None, products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels, halvings = config.d_channels, config.d_halvings or len(config.d_channels)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(c_in, c_out, products, is_first=block == 0, halves=block < halvings)
            for block, (c_in, c_out) in enumerate(pairwise((config.image_shape[0], *channels)))
        )
        self.score = nn.Linear(channels[-1], 1)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes, channels[-1])
        has_classes = num_classes is not None and config.class_weight > 0
        self.classify = nn.Linear(channels[-1], cast(int, num_classes)) if has_classes else None
        initialize(self)
        if config.spectral_norm:
            add_spectral_norm(self)

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        x = images
        for block in self.blocks:
            x = block(x)
        features = x.relu().sum((2, 3))  # [N, C, H, W] -> [N, C]
        score = cast(Tensor, self.score(features)).flatten()
        if self.class_embedding is not None:
            score = score + (self.class_embedding(labels) * features).sum(1)
        return score, None if self.classify is None else self.classify(features)


def initialize(network: nn.Module) -> None:
    """Orthogonal weights and zero biases, as in BigGAN (Brock et al. 2019, arXiv:1809.11096, appendix C)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network, Discriminator) and network.class_embedding is not None:
        torch.nn.init.orthogonal_(network.class_embedding.weight)
