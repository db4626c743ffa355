"""The networks of report 2: a small DCGAN as Keras builds it, with the options that the report compares.

Where the report is silent, the defaults of Keras apply: "same" padding, Glorot's uniform initial weights with zero
biases, batch norm of epsilon 0.001. In conditional networks the class joins the latent vector (Mirza and Osindero 2014,
arXiv:1411.1784) and the discriminator uses projection (arXiv:1802.05637, eq. 3).
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks import discriminator
from services.trainer.networks.layers import add_spectral_norm
from services.trainer.networks.strided import PLAIN_PRODUCTS, Products
from shared.configs.train import TrainConfig

FIRST_PX, LAST_PX = 8, 8  # the generator's first image size, and the size that the discriminator flattens


class Generator(nn.Module):
    """z -> dense 8x8 -> 16x16 -> 32x32 by transposed convolutions of 3x3, then a 3x3 convolution to colours."""

    def __init__(self, config: TrainConfig, num_classes: int | None, _products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels = config.g_channels
        self.first_channels = channels[0]
        self.dense = nn.Linear(config.latent_dim, channels[0] * FIRST_PX**2)
        # Equals a dense layer on z and the one-hot class: the class selects a row of weights.
        self.class_weights = None if num_classes is None else nn.Embedding(num_classes, self.dense.out_features)
        self.convolutions = nn.ModuleList(nn.ConvTranspose2d(c_in, c_out, 3, 2) for c_in, c_out in pairwise(channels))
        self.to_rgb = nn.Conv2d(channels[-1], config.image_shape[0], 3, padding=1)
        self.norms = nn.ModuleList(_norm(c, config) for c in channels)
        self.activation = nn.ReLU() if config.g_activation == "relu" else nn.LeakyReLU(config.leaky_slope)
        self.is_softmax, self.is_unit = config.g_output == "softmax", config.pixel_range == "unit"
        initialize(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        x = self.dense(z)  # [N, latent] -> [N, C * 8 * 8]
        if self.class_weights is not None:
            x = x + self.class_weights(labels)
        x = self.norms[0](self.activation(x.view(-1, self.first_channels, FIRST_PX, FIRST_PX)))
        for convolution, norm in zip(self.convolutions, list(self.norms)[1:], strict=True):
            x = convolution(x)[:, :, :-1, :-1]  # "same" of stride two: [N, C, H, W] -> [N, C', 2H, 2W]
            x = norm(self.activation(x))
        colours: Tensor = self.to_rgb(x)
        images = colours.softmax(1) if self.is_softmax else colours.tanh()
        if not self.is_unit:
            return images
        images = 2 * images - 1  # [0, 1] -> [-1, 1]; values of tanh below 0 fall below -1
        return images if self.training else images.clamp(min=-1)  # black in exported images


class Discriminator(discriminator.Discriminator):
    """32x32 -> 16x16 -> 8x8 by convolutions of 3x3, flattened -> one score per image."""

    def __init__(self, config: TrainConfig, num_classes: int | None, _products: Products = PLAIN_PRODUCTS) -> None:
        super().__init__()
        channels = config.d_channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 3, 2) for c_in, c_out in pairwise((config.image_shape[0], *channels))
        )
        self.norms = nn.ModuleList(_norm(c, config) for c in channels)
        self.activation, self.dropout = nn.LeakyReLU(config.leaky_slope), nn.Dropout(config.dropout)
        self.is_unit = config.pixel_range == "unit"
        self.score = nn.Linear(channels[-1] * LAST_PX**2, 1)
        self.class_projection = None if num_classes is None else nn.Embedding(num_classes, self.score.in_features)
        has_classes = num_classes is not None and config.class_weight > 0
        self.classify = nn.Linear(self.score.in_features, cast(int, num_classes)) if has_classes else None
        initialize(self)
        if config.spectral_norm:
            add_spectral_norm(self)

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        x = (images + 1) / 2 if self.is_unit else images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(F.pad(x, (0, 1, 0, 1)))  # "same" of stride two: the odd pixel is at the right and below
            x = self.dropout(norm(self.activation(x)))
        features = x.flatten(1)  # [N, C, 8, 8] -> [N, C * 8 * 8]
        score: Tensor = self.score(features).flatten()
        if self.class_projection is not None:
            score = score + (self.class_projection(labels) * features).sum(1)
        return score, None if self.classify is None else self.classify(features)


def _norm(channels: int, config: TrainConfig) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01) if config.batch_norm else nn.Identity()


def initialize(network: nn.Module) -> None:
    """Keras' initial weights: Glorot and Bengio 2010, eq. 16, and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(module.weight)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
