"""Report 2's presets train as the tutorial that the report cites; a plain script of that tutorial is the reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.data.datasets import ImageDataset
from services.trainer.networks import keras_dcgan
from services.trainer.training.state import SUMMED, TrainState
from services.trainer.training.steps import train_iteration
from shared.configs.presets import resolve
from shared.configs.train import TrainConfig
from tests.trainer.small import CPU, random_images

STEPS, BATCH = 6, 8
SMALL = {"g_channels": [8, 8, 8], "d_channels": [8, 8], "latent_dim": 10, "batch_size": BATCH, "lr": 0.01}


def tutorial_losses(state: TrainState, dataset: ImageDataset, chosen: list[Tensor]) -> list[tuple[float, float]]:
    """(D loss, G loss) of each step, as a script of the tutorial computes them; it trains copies of the networks.

    Pixels in [0, 1], LeakyReLU of slope 0.2, Adam with beta 1 of 0.5, one D step on a stacked batch of half real and
    half generated images, then one G step on a whole batch.
    """
    generator = copy.deepcopy(state.generator)
    discriminator = copy.deepcopy(state.discriminator)
    assert isinstance(generator, keras_dcgan.Generator)
    assert isinstance(discriminator, keras_dcgan.Discriminator)

    def generate(z: Tensor) -> Tensor:
        x = F.leaky_relu(generator.dense(z).view(-1, 8, 8, 8), 0.2)
        for convolution in generator.convolutions:
            x = F.leaky_relu(convolution(x)[:, :, :-1, :-1], 0.2)
        images: Tensor = generator.to_rgb(x).tanh()
        return images

    def judge(images: Tensor) -> Tensor:
        x = images
        for convolution in discriminator.convolutions:
            x = F.leaky_relu(convolution(F.pad(x, (0, 1, 0, 1))), 0.2)
        scores: Tensor = discriminator.score(x.flatten(1)).flatten()
        return scores

    def adam(network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), 0.01, (0.5, 0.999))

    optimizer_g, optimizer_d = adam(generator), adam(discriminator)
    losses = []
    for indices in chosen:
        fake = generate(torch.randn(BATCH // 2, 10)).detach()
        stacked = torch.cat([dataset.images[indices].float() / 255, fake])
        is_real = torch.cat([torch.ones(BATCH // 2), torch.zeros(BATCH // 2)])
        loss_d = F.binary_cross_entropy_with_logits(judge(stacked), is_real)
        optimizer_d.zero_grad()
        loss_d.backward()  # type: ignore[no-untyped-call]
        optimizer_d.step()
        z, _ = torch.randn(BATCH, 10), torch.randint(0, 10, (BATCH,))  # Kiln draws classes for every network
        loss_g = F.binary_cross_entropy_with_logits(judge(generate(z)), torch.ones(BATCH))
        optimizer_g.zero_grad()
        loss_g.backward()  # type: ignore[no-untyped-call]
        optimizer_g.step()
        losses.append((loss_d.item(), loss_g.item()))
    return losses


def kiln_losses(state: TrainState, dataset: ImageDataset, chosen: list[Tensor]) -> list[tuple[float, float]]:
    losses = []
    for indices in chosen:
        train_iteration(state, dataset, indices)
        losses.append((state.sums[SUMMED.index("loss_d")].item(), state.sums[SUMMED.index("loss_g")].item()))
        state.sums.zero_()
    return losses


def both(config: TrainConfig) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Losses of Kiln and of the script, from the same weights, images and latents."""
    dataset, state = random_images(40), TrainState(config, 10, CPU)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    chosen = [order[i * config.real_batch_size : (i + 1) * config.real_batch_size] for i in range(STEPS)]
    torch.manual_seed(1)
    script = tutorial_losses(state, dataset, [indices[: BATCH // 2] for indices in chosen])
    torch.manual_seed(1)
    return kiln_losses(state, dataset, chosen), script


def test_the_base_row_takes_the_steps_of_the_tutorial() -> None:
    ours, script = both(resolve("dcgan", SMALL))
    assert ours == [pytest.approx(pair, abs=2e-5) for pair in script]
    assert script[0][0] != pytest.approx(script[-1][0], abs=1e-3)  # and the steps change the networks


@pytest.mark.parametrize(
    "change",
    [{"pixel_range": "symmetric"}, {"leaky_slope": 0.3}, {"adam_beta1": 0.9}, {"d_batch": "full", "batch_size": 4}],
    ids=["pixels in [-1, 1]", "slope 0.3", "beta 1 of 0.9", "a whole real batch"],
)
def test_any_other_set_up_takes_different_steps(change: dict[str, Any]) -> None:
    ours, script = both(resolve("dcgan", SMALL | change))
    assert (torch.tensor(ours) - torch.tensor(script)).abs().max().item() > 1e-3


def test_a_frozen_discriminator_uses_its_running_statistics_and_keeps_its_dropout() -> None:
    # Given the row with batch norm and dropout
    state = TrainState(resolve("bndrhl", SMALL), 10, CPU)
    norms = [module for module in state.discriminator.modules() if isinstance(module, nn.BatchNorm2d)]
    dropouts = [module for module in state.discriminator.modules() if isinstance(module, nn.Dropout)]
    modes: list[tuple[bool, bool]] = []
    norms[0].register_forward_hook(lambda *_: modes.append((norms[0].training, dropouts[0].training)))
    # When it trains for one step
    train_iteration(state, random_images(40), torch.arange(4))
    # Then batch norm used the batch in D's step, and the running statistics in G's
    assert modes == [(True, True), (False, True)]
    assert all(norm.training for norm in norms)


def test_images_of_a_unit_range_model_are_in_minus_one_to_one() -> None:
    # Given a generator that trains on pixels in [0, 1]
    generator = TrainState(resolve("dcgan", SMALL), 10, CPU).generator
    z, labels = torch.randn(4, 10) * 20, torch.zeros(4, dtype=torch.int64)
    # Then in training, tanh gives values below black; in evaluation mode, these are black
    in_training, used = generator(z, labels), generator.eval()(z, labels)
    assert in_training.min().item() < -1
    assert torch.equal(used, in_training.clamp(min=-1))
    assert used.max().item() <= 1
