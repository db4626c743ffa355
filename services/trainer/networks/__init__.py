"""Generators `(z [N, latent], labels [N]) -> images [N, 3, 32, 32]`, discriminators `(images, labels) -> scores [N]`.

Unconditional networks take the labels too and ignore them, so that nothing else has to ask which kind it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from services.trainer.networks import dcgan, keras_dcgan, resnet, resnet18
from shared.configs.presets import TrainConfig

IMAGE_SIZE = 32  # pixels, both ways; every network here is built for it
IMAGE_CHANNELS = 3

_FAMILIES = {
    "dcgan": (dcgan.Generator, dcgan.Discriminator),
    "keras-dcgan": (keras_dcgan.Generator, keras_dcgan.Discriminator),
    "resnet": (resnet.Generator, resnet.Discriminator),
    "resnet-18": (resnet.Generator, resnet18.Discriminator),
}


def build_networks(config: TrainConfig, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """Freshly initialised generator and discriminator, drawn from torch's global generator."""
    generator, discriminator = _FAMILIES[config.architecture]
    classes = num_classes if config.conditional else None
    return generator(config, classes), discriminator(config, classes)


# (images [N, 3, 32, 32], labels [N]) -> scores [N], and logits [N, classes] of a network with a class loss
Judge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


def judge_of(discriminator: nn.Module) -> Judge:
    """What the discriminator says of images beside their scores, which are all that calling it returns."""
    return cast(Judge, discriminator.judge)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
