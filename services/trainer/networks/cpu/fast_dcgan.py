"""The forward passes of networks/dcgan.py, the same modules and the same numbers, with faster products on the CPU.

Convolutions of stride two go by networks/winograd.py; the first of the generator and the last of the discriminator,
which see all of a 4x4 image at once, are plain matrix products.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks import dcgan
from services.trainer.networks.cpu.winograd import conv4x4, conv_transpose4x4, lay_out_weight

# With fewer on one side the transforms cost more than the products save: docs/explanation/performance.md. The wider the
# processor's vectors, the sooner oneDNN's own convolutions are done, but transforms wait for memory.
FEWEST_CHANNELS = 128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 16


def generate(network: dcgan.Generator, z: Tensor, labels: Tensor) -> Tensor:
    """What `network(z, labels)` returns."""
    first, *convolutions, last = cast(list[nn.ConvTranspose2d], list(network.convolutions))
    channels = first.weight.shape[1]
    x = z @ first.weight.permute(0, 2, 3, 1).flatten(1)  # [N, latent] -> [N, 4 * 4 * C]
    x = x.view(-1, 4, 4, channels).permute(0, 3, 1, 2)
    x = network.norms[0](x, labels).relu()
    for convolution, norm in zip(convolutions, list(network.norms)[1:], strict=True):
        is_wide = _is_wide(convolution)
        x = conv_transpose4x4(x, convolution.weight) if is_wide else convolution(x)
        x = norm(x, labels).relu()
    return cast(Tensor, last(x)).tanh()


def judge(network: dcgan.Discriminator, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """What `network.judge(images, labels)` returns."""
    x = images
    for convolution, norm in zip(cast(list[nn.Conv2d], list(network.convolutions)), network.norms, strict=True):
        x = conv4x4(x, convolution.weight) if _is_wide(convolution) else convolution(x)
        x = F.leaky_relu(norm(x), dcgan.LEAKY_SLOPE)
    score = x.permute(0, 2, 3, 1).flatten(1) @ network.score.weight.permute(0, 2, 3, 1).flatten()  # [N]
    if network.class_filters is not None:
        score = score + (network.class_filters(labels) * x.flatten(1)).sum(1)
    return score, None if network.classify is None else network.classify(x.flatten(1))


def lay_out(network: nn.Module) -> None:
    """Puts the weights into the order in memory that the fast products want. Their values stay."""
    if isinstance(network, dcgan.Discriminator):
        for convolution in cast(list[nn.Conv2d], list(network.convolutions)):
            if _is_wide(convolution) and isinstance(convolution._parameters.get("weight"), nn.Parameter):
                convolution.weight.data = lay_out_weight(convolution.weight.data)


def _is_wide(convolution: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return min(convolution.in_channels, convolution.out_channels) >= FEWEST_CHANNELS
