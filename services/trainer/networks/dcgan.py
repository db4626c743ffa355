"""The networks of report 1: DCGAN's shapes (Radford et al. 2016, arXiv:1511.06434), without biases.

The unconditional networks have exactly the report's weights. In the conditional ones, the generator's batch norms look
up scale and shift by class, and the discriminator projects its last feature map onto the class (Miyato and Koyama 2018,
arXiv:1802.05637, eq. 3).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from services.trainer.networks import discriminator
from services.trainer.networks.layers import ConditionalBatchNorm2d, add_spectral_norm
from services.trainer.networks.strided import (
    PLAIN_PRODUCTS,
    Conv4x4,
    ConvTranspose4x4,
    LatentsTo4x4,
    Products,
    ScoreOf4x4,
)
from shared.configs.train import TrainConfig

LEAKY_SLOPE = 0.2
WEIGHT_STD = 0.02  # DCGAN, section 4


class Generator(nn.Module):
    """z -> 4x4 -> 8x8 -> ... -> H x W, transposed convolutions of 4x4; batch norm and ReLU between, tanh at the end."""

    def __init__(self, config: TrainConfig, num_classes: int | None, products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels = config.g_channels
        self.convolutions = nn.ModuleList([LatentsTo4x4(config.latent_dim, channels[0], products)])
        for c_in, c_out in zip(channels, (*channels[1:], config.image_shape[0]), strict=True):
            self.convolutions.append(ConvTranspose4x4(c_in, c_out, products))
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(c, num_classes) for c in channels)
        initialize(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = z[:, :, None, None]  # [N, latent] -> [N, latent, 1, 1]
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = norm(convolution(x), labels).relu()
        return cast(Tensor, self.convolutions[-1](x)).tanh()


class Discriminator(discriminator.Discriminator):
    """H x W -> ... -> 4x4 -> one score per image; batch norm on all but the first and last layer, LeakyReLU 0.2.

    With `spectral_norm` every weight is normalised instead, as in SNGAN (arXiv:1802.05957), and there is no batch norm.
    """

    def __init__(self, config: TrainConfig, num_classes: int | None, products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels = config.d_channels
        self.convolutions = nn.ModuleList(
            Conv4x4(c_in, c_out, products)
            for c_in, c_out in zip((config.image_shape[0], *channels), channels, strict=False)
        )
        norms = (nn.Identity() if config.spectral_norm else nn.BatchNorm2d(c) for c in channels[1:])
        self.norms = nn.ModuleList([nn.Identity(), *norms])
        self.score = ScoreOf4x4(channels[-1], products)
        initialize(self)
        self.class_projection = None
        if num_classes is not None:
            self.class_projection = nn.Embedding(num_classes, channels[-1] * 4 * 4)
            nn.init.normal_(self.class_projection.weight, 0.0, WEIGHT_STD)
        self.classify = None
        if num_classes is not None and config.class_weight:
            self.classify = nn.Linear(channels[-1] * 4 * 4, num_classes)
            nn.init.normal_(self.classify.weight, 0.0, WEIGHT_STD)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)
        if config.spectral_norm:
            add_spectral_norm(self)

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.activation(norm(convolution(x)))
        score = cast(Tensor, self.score(x)).flatten()  # [N, C, 4, 4] -> [N]
        if self.class_projection is not None:
            score = score + (self.class_projection(labels) * x.flatten(1)).sum(1)
        return score, None if self.classify is None else self.classify(x.flatten(1))


def initialize(network: nn.Module) -> None:
    """DCGAN's initial weights: N(0, 0.02) for convolutions; batch norm keeps torch's ones and zeros."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
