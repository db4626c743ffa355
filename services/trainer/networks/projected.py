"""A discriminator that judges features of a frozen ImageNet network.

Projected GANs, Sauer et al. 2021, arXiv:2111.01007. Images are enlarged to `feature_px` and pass through
EfficientNet-lite0. Random frozen convolutions mix its features at two to four scales, across channels and from coarse
to fine, so that no head can rely on a few features only. One small head per scale scores each position. The class
enters by projection in each head (Sauer et al. 2022, StyleGAN-XL, arXiv:2202.00273). No head has a score without the
class, so that the class counts from the first step on.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from services.trainer.data.augment import to_unit_range
from services.trainer.networks import discriminator
from services.trainer.networks.frozen_features import TAPS, FrozenFeatures
from services.trainer.networks.layers import add_spectral_norm
from services.trainer.networks.strided import PLAIN_PRODUCTS, Products
from shared.configs.train import TrainConfig

LOGIT_SCALE = 4.0  # of class logits; spectral norm would keep them too small for a confident prediction
HEAD_PX = 4  # a head halves its features down to this size, then scores each position


class Discriminator(discriminator.Discriminator):
    """(images, labels) -> scores [N, positions of all heads]. `features` is the frozen part, the heads are trained."""

    def __init__(self, config: TrainConfig, num_classes: int | None, _products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels, self.feature_px = config.d_channels, config.projected_px
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.frozen = FrozenFeatures(len(channels), dtype)
        self.shapes = [(c, self.feature_px >> (2 + i)) for i, c in enumerate(list(TAPS.values())[: len(channels)])]
        self.mixing = nn.ModuleList(
            MixedScale(c, width, channels[index + 1] if index + 1 < len(channels) else None)
            for index, ((c, _), width) in enumerate(zip(self.shapes, channels, strict=True))
        )
        has_class_loss = num_classes is not None and config.class_weight > 0
        self.heads = nn.ModuleList(
            Head(width, width, size, num_classes, has_class_loss=has_class_loss)
            for width, (_, size) in zip(channels, self.shapes, strict=True)
        )

    def features(self, images: Tensor) -> Tensor:
        """[N, C, H, W] in [-1, 1] -> [N, F]: the frozen network's features of all scales, side by side."""
        with torch.autocast(images.device.type, enabled=False):  # the frozen network has a precision of its own
            images = images.float().expand(-1, 3, -1, -1)  # grey images in three equal channels
            large = F.interpolate(images, size=(self.feature_px, self.feature_px), mode="bilinear")
            taps = self.frozen(large.contiguous(memory_format=torch.channels_last))
        return torch.cat([tap.permute(0, 2, 3, 1).flatten(1) for tap in taps], 1)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Measures mean and deviation of each feature over real images, so that all enter the mixing alike."""
        features = torch.cat([self.features(to_unit_range(part)) for part in torch.split(images, 100)])
        for scale, tap in zip(self.mixing, self._split(features), strict=True):
            cast(MixedScale, scale).calibrate(tap)

    def forward_with_logits(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores [N, positions of all heads], and class logits [N, classes, heads]."""
        scores, logits = [], []
        coarser: Tensor | None = None
        taps = self._split(features)
        for index in reversed(range(len(taps))):
            coarser = self.mixing[index](taps[index], coarser)
            score, of_classes = self.heads[index](coarser, labels)
            scores.append(score)
            logits.append(of_classes)
        return torch.cat(scores, 1), None if logits[0] is None else torch.stack(logits, 2)

    def _split(self, features: Tensor) -> list[Tensor]:
        """[N, F] -> [N, C, H, W] per scale, with the channels of a pixel next to each other in memory."""
        parts = torch.split(features, [c * size * size for c, size in self.shapes], 1)
        return [
            part.view(-1, size, size, c).permute(0, 3, 1, 2) for part, (c, size) in zip(parts, self.shapes, strict=True)
        ]


class MixedScale(nn.Module):
    """Random frozen convolutions of one scale: 1x1 over its channels, then 3x3 together with the coarser scale.

    They are drawn once and saved in checkpoints; section 3.2 of the paper. [N, C, H, W] -> [N, D, H, W]
    """

    mean: Tensor
    deviation: Tensor
    channels: Tensor
    coarser: Tensor
    pixels: Tensor

    def __init__(self, c_in: int, c_out: int, c_coarser: int | None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(c_in))
        self.register_buffer("deviation", torch.ones(c_in))
        self.register_buffer("channels", _random_filters(c_out, c_in, 1))
        self.is_coarsest = c_coarser is None
        if c_coarser is not None:
            self.register_buffer("coarser", _random_filters(c_out, c_coarser, 1))
            self.register_buffer("pixels", _random_filters(c_out, c_out, 3))

    def calibrate(self, tap: Tensor) -> None:
        pixels = tap.float().transpose(0, 1).flatten(1)  # [C, N * H * W]
        self.mean.copy_(pixels.mean(1))
        self.deviation.copy_(pixels.std(1) + 1e-3)

    def forward(self, tap: Tensor, coarser: Tensor | None) -> Tensor:
        weight = self.channels / self.deviation[:, None, None]
        x = F.conv2d(tap, weight, -(weight.flatten(1) @ self.mean))
        if coarser is None:
            return x
        coarser = F.conv2d(coarser, self.coarser)
        coarser = F.interpolate(coarser, size=x.shape[2:], mode="bilinear")
        return F.conv2d((x + coarser) * 0.5**0.5, self.pixels, padding=1)


class Head(nn.Module):
    """Scores each position of one scale for its class. [N, C, S, S] -> scores [N, positions], logits [N, classes]."""

    def __init__(self, channels: int, width: int, size: int, num_classes: int | None, *, has_class_loss: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while size > HEAD_PX:
            layers += [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
            channels, size = width, size // 2
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        add_spectral_norm(self.body)
        # One vector of filters per class; without classes, one for all images. Not normalised: the class must be able
        # to change the score as much as the image.
        self.filters = nn.Embedding(num_classes or 1, width)
        nn.init.normal_(self.filters.weight, std=width**-0.5)
        self.classify = spectral_norm(nn.Linear(width, cast(int, num_classes))) if has_class_loss else None

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        x = cast(Tensor, self.body(x))
        chosen = self.filters(labels if self.filters.num_embeddings > 1 else torch.zeros_like(labels))  # [N, C]
        scores = (x * chosen[:, :, None, None].to(x.dtype)).sum(1, dtype=torch.float32)
        return scores.flatten(1), None if self.classify is None else LOGIT_SCALE * self.classify(x.mean((2, 3)))


def _random_filters(c_out: int, c_in: int, size: int) -> Tensor:
    """Filters that keep the variance of their input."""
    return torch.randn(c_out, c_in, size, size) / math.sqrt(c_in * size * size)
