"""Builds the generator and discriminator that a training config describes.

Generators map `(z [N, latent], labels [N]) -> images [N, C, H, W]`; discriminators map `(images, labels) -> scores
[N]`. Unconditional networks accept labels and ignore them, so that callers need not distinguish the two kinds.
"""

from __future__ import annotations

from torch import nn

from services.trainer.networks import dcgan, keras_dcgan, projected, resnet
from services.trainer.networks.discriminator import Discriminator
from services.trainer.networks.strided import PLAIN_PRODUCTS, Products
from shared.configs.train import TrainConfig

_FAMILIES = {
    "dcgan": (dcgan.Generator, dcgan.Discriminator),
    "keras-dcgan": (keras_dcgan.Generator, keras_dcgan.Discriminator),
    "resnet": (resnet.Generator, resnet.Discriminator),
}


def build_networks(
    config: TrainConfig, num_classes: int, products: Products = PLAIN_PRODUCTS
) -> tuple[nn.Module, Discriminator]:
    """Freshly initialised generator and discriminator, drawn from torch's global generator.

    `products` chooses how convolutions multiply; parameters and results are the same but for rounding.
    """
    generator, discriminator = _FAMILIES[config.architecture]
    if config.discriminator == "projected":
        discriminator = projected.Discriminator
    classes = num_classes if config.conditional else None
    return generator(config, classes, products), discriminator(config, classes, products)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
