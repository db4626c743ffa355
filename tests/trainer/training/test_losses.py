"""Losses and the gradient penalty, on numbers one can check by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from services.trainer.networks.build import build_networks
from services.trainer.training.losses import LOSSES, class_loss, gradient_penalty
from shared.configs.train import TrainConfig
from tests.trainer.small import LinearCritic, small_config, small_resnet

LOG_2, LOG_3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("name", "real", "fake", "expected"),
    [
        ("wasserstein", [3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [-2.0, 1.0, 0.0]),
        ("hinge", [2.0, 0.5, -1.0], [-2.0, -0.5, 1.0], [0.0, 1.0, 4.0]),
        # sigmoid(log 3) = 3/4: a probability of 3/4, which is right (-log 3/4) or wrong (-log 1/4)
        ("bce", [0.0, LOG_3, -LOG_3], [0.0, -LOG_3, LOG_3], [LOG_2, math.log(4 / 3), math.log(4)]),
        ("bce", [LOG_3], [0.0], [(math.log(4 / 3) + LOG_2) / 2]),
    ],
)  # fmt: skip
def test_discriminator_loss_per_image(name: str, real: list[float], fake: list[float], expected: list[float]) -> None:
    losses = LOSSES[name].discriminator(torch.tensor(real), torch.tensor(fake))
    assert losses.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "fake", "expected"),
    [
        ("wasserstein", [1.0, -2.0], [-1.0, 2.0]),
        ("hinge", [1.0, -2.0], [-1.0, 2.0]),
        ("bce", [0.0, -LOG_3, LOG_3], [LOG_2, math.log(4), math.log(4 / 3)]),
    ],
)
def test_generator_loss_per_image(name: str, fake: list[float], expected: list[float]) -> None:
    assert LOSSES[name].generator(torch.tensor(fake)).tolist() == pytest.approx(expected)


def test_class_loss_per_image() -> None:
    # Given two classes, and a probability of 1/2 for the right class, of 3/4, and of 1/4
    logits, labels = torch.tensor([[0.0, 0.0], [0.0, LOG_3], [LOG_3, 0.0]]), torch.tensor([0, 1, 1])
    assert class_loss(logits, labels).tolist() == pytest.approx([LOG_2, math.log(4 / 3), math.log(4)])


def test_a_critic_that_scores_real_images_higher_has_the_lower_wgan_gp_loss() -> None:
    """The sign of Gulrajani et al. 2017, algorithm 1; report 1 prints it the other way round."""
    high, low = torch.tensor([5.0]), torch.tensor([-5.0])
    discriminator_loss = LOSSES["wasserstein"].discriminator
    assert discriminator_loss(high, low).item() == -10.0
    assert discriminator_loss(low, high).item() == 10.0


@pytest.mark.parametrize("name", LOSSES)
def test_the_discriminator_separates_the_scores_and_the_generator_closes_the_gap(name: str) -> None:
    # Given undecided scores
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    # When the discriminator follows its gradient, Then scores of real images rise and those of fake ones fall
    slopes = torch.autograd.grad(LOSSES[name].discriminator(real, fake).sum(), (real, fake))
    assert slopes[0].item() < 0 < slopes[1].item()
    # When the generator follows its gradient, Then scores of fake images rise
    (slope,) = torch.autograd.grad(LOSSES[name].generator(fake).sum(), fake)
    assert slope.item() < 0


def test_bce_stays_finite_for_scores_that_overflow_an_exponential() -> None:
    huge = torch.tensor([1e4])
    assert LOSSES["bce"].discriminator(-huge, huge).item() == pytest.approx(1e4)
    assert LOSSES["bce"].generator(-huge).item() == pytest.approx(1e4)


@pytest.mark.parametrize(("name", "expected"), [("wasserstein", 1.75), ("hinge", 0.0), ("bce", 0.0)])
def test_the_threshold_between_real_and_fake(name: str, expected: float) -> None:
    # A critic's scores have no fixed zero: its threshold lies half-way between the means, 3 and 0.5.
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([0.0, 1.0])
    assert LOSSES[name].threshold(real, fake).item() == expected


class ClassCritic(nn.Module):
    """score = label * first pixel: the norm of its gradient is the label."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return labels * images[:, 0, 0, 0]


class QuadraticCritic(nn.Module):
    """score = |image|^2 / 2: its gradient is the image itself."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.flatten(1).square().sum(1) / 2


@pytest.mark.parametrize(("leading", "expected"), [((3.0, 4.0), 16.0), ((0.6, 0.8), 0.0), ((0.3, 0.4), 0.25)])
def test_penalty_of_a_linear_critic_is_its_distance_from_slope_one(leading: tuple[float, ...], expected: float) -> None:
    real, fake, labels = torch.randn(3, 3, 32, 32), torch.randn(3, 3, 32, 32), torch.zeros(3, dtype=torch.int64)
    penalty = gradient_penalty(LinearCritic(*leading), real, fake, labels, torch.rand(3))
    assert penalty.tolist() == pytest.approx([expected] * 3, abs=1e-5)


def test_penalty_pulls_a_linear_critic_towards_slope_one() -> None:
    # Given a critic of slope 5
    critic = LinearCritic(3.0, 4.0)
    real, fake, labels = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    # When its penalty is differentiated once more
    penalty = gradient_penalty(critic, real, fake, labels, torch.rand(2)).mean()
    (gradient,) = torch.autograd.grad(penalty, critic.weight)
    # Then the gradient is 2 (|w| - 1) w / |w| = 8 w / 5
    assert gradient[:3].tolist() == pytest.approx([4.8, 6.4, 0.0])


def test_the_penalty_is_evaluated_between_real_and_fake_images() -> None:
    # Given a critic whose slope at an image is the image's length; real ones have length 5, fake ones 1
    real, fake = torch.zeros(3, 3, 32, 32), torch.zeros(3, 3, 32, 32)
    real[:, 0, 0, 0], fake[:, 0, 0, 0] = 5.0, 1.0
    mix = torch.tensor([1.0, 0.5, 0.0])
    # Then at the real image it is (5 - 1)^2, half-way (3 - 1)^2, and at the fake image (1 - 1)^2
    penalty = gradient_penalty(QuadraticCritic(), real, fake, torch.zeros(3, dtype=torch.int64), mix)
    assert penalty.tolist() == pytest.approx([16.0, 4.0, 0.0])


def test_the_penalty_uses_each_images_own_class() -> None:
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([1, 2, 4])
    penalty = gradient_penalty(ClassCritic(), images, -images, labels, torch.rand(3))
    assert penalty.tolist() == pytest.approx([0.0, 1.0, 9.0])


@pytest.mark.parametrize(
    "config", [small_config("wgan-gp-conditional"), small_resnet("wgan-gp-conditional")], ids=["dcgan", "resnet"]
)
def test_the_gradient_of_the_penalty_agrees_with_finite_differences(config: TrainConfig) -> None:
    """The second derivative through a real discriminator, against finite differences in double precision."""
    # Given a discriminator, a direction in the space of its weights, and a penalty
    torch.manual_seed(0)
    _, discriminator = build_networks(config, num_classes=10)
    discriminator.double()
    real, fake = torch.randn(2, 3, 32, 32).double(), torch.randn(2, 3, 32, 32).double()
    labels, mix = torch.tensor([1, 2]), torch.rand(2).double()
    parameters = list(discriminator.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def penalty_after(step: float) -> float:
        moved = copy.deepcopy(discriminator)
        with torch.no_grad():
            torch._foreach_add_(list(moved.parameters()), direction, alpha=step)
        return plain_penalty(moved, real, fake, labels, mix)

    # When it is differentiated
    penalty = gradient_penalty(discriminator, real, fake, labels, mix).mean()
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    # Then its slope along the direction is the difference quotient; steps are tiny, so that no ReLU switches in between
    slope = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True) if g is not None)
    step = 1e-8
    assert slope == pytest.approx((penalty_after(step) - penalty_after(-step)) / (2 * step), rel=1e-4)
    assert penalty.item() == pytest.approx(penalty_after(0.0), rel=1e-5)
    assert abs(slope) > 0.05


def plain_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, mix: Tensor) -> float:
    """The same formula image by image, in double precision."""
    between = torch.stack([m * r + (1 - m) * f for m, r, f in zip(mix, real, fake, strict=True)]).requires_grad_()
    (gradients,) = torch.autograd.grad(discriminator(between, labels).sum(), between)
    return sum((math.sqrt((g**2).sum().item()) - 1) ** 2 for g in gradients) / len(gradients)
