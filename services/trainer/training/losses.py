"""Adversarial losses as pure functions: scores [N] in, losses per sample [N] out; the step averages them.

The discriminator *minimises* every discriminator loss. Signs are those of the cited papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """The losses of both networks, and the score above which the discriminator calls an image real."""

    discriminator: Callable[[Tensor, Tensor], Tensor]  # (real scores, fake scores) -> [N]
    generator: Callable[[Tensor], Tensor]  # fake scores -> [N]
    threshold: Callable[[Tensor, Tensor], Tensor]  # -> []


def _zero(real: Tensor, fake: Tensor) -> Tensor:
    return torch.zeros((), device=real.device)


def _midpoint(real: Tensor, fake: Tensor) -> Tensor:
    # Only differences between a critic's scores have a meaning.
    return (real.mean() + fake.mean()) / 2


LOSSES: dict[str, Loss] = {
    # Arjovsky et al. 2017, arXiv:1701.07875, eq. 2-3, with the sign of Gulrajani et al. 2017, algorithm 1, line 7.
    "wasserstein": Loss(lambda real, fake: fake - real, lambda fake: -fake, _midpoint),
    # Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957, eq. 16-17.
    "hinge": Loss(lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), lambda fake: -fake, _zero),
    # Goodfellow et al. 2014, arXiv:1406.2661, eq. 1, on logits; the generator's is the non-saturating one of section 3.
    # Mean of the real and the fake half, as Keras prints it: log 2 = 0.693 for a discriminator that guesses.
    "bce": Loss(lambda real, fake: (F.softplus(-real) + F.softplus(fake)) / 2, lambda fake: F.softplus(-fake), _zero),
}


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log P(class | image) [N] of logits [N, K], or [N, heads] of [N, K, heads]: the auxiliary classifier's loss.

    Odena et al. 2017, arXiv:1610.09585, eq. 3. The discriminator learns classes from real images only; generated ones
    would teach it the generator's mistakes.
    """
    if logits.dim() == 3:
        labels = labels[:, None].expand(-1, logits.shape[2])
    return F.cross_entropy(logits.float(), labels, reduction="none")


def gradient_penalty(
    discriminator: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor
) -> Tensor:
    """(||grad D(x)|| - 1)^2 at points between real and fake; Gulrajani et al. 2017, arXiv:1704.00028, eq. 3. -> [N]

    `mix` [N] in [0, 1] is the weight of the real image. The result is differentiable in D's weights.
    """
    weight = mix[:, None, None, None]
    between = (weight * real + (1 - weight) * fake).detach().requires_grad_()
    scores = discriminator(between, labels)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)  # [N, C, H, W]
    norm: Tensor = gradient.float().flatten(1).norm(2, dim=1)
    return (norm - 1) ** 2
