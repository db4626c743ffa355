"""Sample grids: the same latents every time, batch statistics that fit, and no side effect."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from services.trainer.networks.build import build_networks
from services.trainer.training.sampling import GRID_IMAGES, sample_grid, standing_statistics
from shared.configs.train import TrainConfig
from tests.trainer.small import random_images, small_config, small_resnet

DATASET = random_images()
KINDS = {"dcgan": small_config(), "dcgan, unconditional": small_config("wgan-gp"), "resnet": small_resnet()}


def trained(config: TrainConfig) -> nn.Module:
    """A generator with random weights and batch statistics that do not fit them."""
    torch.manual_seed(0)
    generator, _ = build_networks(config, num_classes=10)
    for parameter in generator.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return generator


def norms_of(generator: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]


def statistics_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance [C]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def inputs_of_norms(generator: nn.Module) -> list[list[Tensor]]:
    """For each batch norm, a list of the inputs of its calls."""
    seen: list[list[Tensor]] = []
    for norm in norms_of(generator):
        batches: list[Tensor] = []
        norm.register_forward_pre_hook(lambda _, args, batches=batches: batches.append(args[0]))
        seen.append(batches)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_does_not_change_torchs_random_state(kind: str) -> None:
    generator = trained(KINDS[kind])
    before = torch.get_rng_state()
    sample_grid(generator, KINDS[kind], DATASET)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_has_a_hundred_images_of_the_same_latents_every_time(kind: str) -> None:
    config, generator = KINDS[kind], trained(KINDS[kind])
    # Given a grid
    first = sample_grid(generator, config, DATASET)
    assert first.shape == (GRID_IMAGES, 3, 32, 32) == (100, 3, 32, 32)
    assert first.dtype == torch.uint8
    # When torch's random state changes, Then the grid is still the same
    torch.manual_seed(123)
    assert torch.equal(sample_grid(generator, config, DATASET), first)
    # When the generator or the seed changes, Then the grid changes
    assert not torch.equal(sample_grid(generator, config.model_copy(update={"seed": 1}), DATASET), first)
    next(generator.parameters()).data *= -1
    assert not torch.equal(sample_grid(generator, config, DATASET), first)


class Painter(nn.Module):
    """Paints an image with its label and its first latent."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        images = torch.zeros(len(z), 3, 32, 32)
        images[:, 0] = (labels / 127.5 - 1)[:, None, None] * self.unit
        images[:, 1] = z[:, 0].clamp(-1, 1)[:, None, None]
        return images


@pytest.mark.parametrize(
    ("num_classes", "rows"), [(10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (3, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0])]
)
def test_each_row_of_a_grid_shows_one_class_and_each_image_another_latent(num_classes: int, rows: list[int]) -> None:
    grid = sample_grid(Painter(), small_config(), random_images(num_classes=num_classes)).view(10, 10, 3, 32, 32)
    assert [set(row[:, 0].flatten().tolist()) for row in grid] == [{label} for label in rows]
    assert (
        len(set(grid[:, :, 1].flatten().tolist())) > 40
    )  # of 100 latents, a third lie outside [-1, 1]; the rest differ


@pytest.mark.parametrize("kind", KINDS)
def test_standing_statistics_are_means_over_the_generated_batches(kind: str) -> None:
    # Given a generator that records the inputs of its batch norms
    generator = trained(KINDS[kind])
    seen = inputs_of_norms(generator)
    # When the statistics are estimated from 1024 images
    standing_statistics(generator, KINDS[kind], torch.arange(10), images=1024)
    # Then each norm holds the mean of all of them, and the average of the batches' variances
    assert len(seen) >= 3
    for norm, batches in zip(norms_of(generator), seen, strict=True):
        assert sum(len(batch) for batch in batches) == 1024
        mean, variance = statistics_of(norm)
        variances = torch.stack([batch.var((0, 2, 3)) for batch in batches])
        torch.testing.assert_close(mean, torch.cat(batches).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, variances.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_standing_statistics_fit_a_large_batch_of_new_images(kind: str) -> None:
    """Within a tenth of a standard deviation, and a tenth of the variance, from both sides."""
    config, generator = KINDS[kind], trained(KINDS[kind])
    # Given the inputs of the batch norms for 2048 images of other latents in one batch
    judge = copy.deepcopy(generator).train()
    seen = inputs_of_norms(judge)
    with torch.no_grad():
        judge(torch.randn(2048, config.latent_dim), torch.randint(0, 10, (2048,)))
    means = [batch.mean((0, 2, 3)) for (batch,) in seen]
    variances = [batch.var((0, 2, 3)) for (batch,) in seen]

    def error() -> tuple[float, float]:
        """The worst channel's distance in mean (in standard deviations) and in variance (as a share)."""
        by_mean, by_variance = [], []
        for norm, mean, variance in zip(norms_of(generator), means, variances, strict=True):
            held_mean, held_variance = statistics_of(norm)
            by_mean.append(((held_mean - mean).abs() / variance.sqrt()).max())
            by_variance.append((held_variance / variance - 1).abs().max())
        return float(max(by_mean)), float(max(by_variance))

    # When the statistics are estimated, Then they fit; before, they did not
    before = error()
    standing_statistics(generator, config, torch.arange(10), images=1024)
    after = error()
    assert max(after) < 0.1 < max(before)


def test_standing_statistics_replace_the_old_ones_and_leave_the_generator_in_evaluation_mode() -> None:
    # Given statistics that are far off
    config, generator, other = small_config(), trained(small_config()), trained(small_config())
    for norm in norms_of(generator):
        statistics_of(norm)[0].add_(1000)
    # When they are estimated, Then the old values are gone, and later training updates the statistics as before
    for network in (generator, other):
        standing_statistics(network, config, torch.arange(10), images=128)
    for norm, expected in zip(norms_of(generator), norms_of(other), strict=True):
        assert torch.equal(statistics_of(norm)[0], statistics_of(expected)[0])
        assert norm.momentum == nn.BatchNorm2d(1).momentum
    assert not any(module.training for module in generator.modules())


def test_a_generator_without_batch_norm_stays_unchanged() -> None:
    painter = Painter()
    standing_statistics(painter, small_config(), torch.arange(10), images=128)
    assert painter.unit.item() == 1.0
