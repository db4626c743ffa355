"""Networks of 64 pixels and more, and of grey images: their shapes, a step of training, and their export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from services.trainer.data.datasets import ImageDataset
from services.trainer.export.onnx import check_parity, export_generator
from services.trainer.networks.build import build_networks
from services.trainer.networks.per_class_generator import PerClassGenerator
from services.trainer.networks.resnet import DiscriminatorBlock, GeneratorBlock
from services.trainer.training.sampling import sample_grid
from services.trainer.training.state import TrainState
from services.trainer.training.steps import train_iteration
from shared.configs.presets import resolve
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput
from tests.trainer.small import CPU, small_config, small_projected, small_resnet

CASES: dict[str, TrainConfig] = {
    "dcgan, 64": small_config(resolution=64, g_channels=[8, 8, 8, 4], d_channels=[4, 8, 8, 8]),
    "resnet, 64": small_resnet(resolution=64, g_channels=[8, 8, 8, 4, 4], d_channels=[8, 8, 8, 8]),
    "resnet, 128, grey": small_resnet(resolution=128, channels=1, g_channels=[8, 8, 4, 4, 4, 4], d_channels=[4, 8]),
    "resnet, 256": small_resnet(resolution=256, g_channels=[8, 8, 4, 4, 4, 2, 2], d_channels=[2, 4, 8]),
    "projected, 64, grey": small_projected(
        resolution=64, channels=1, g_channels=[8, 8, 8, 4, 4], g_batch="shared", feature_px=64
    ),
    "dcgan, 32, grey": small_config(channels=1),
}


def noise(config: TrainConfig, count: int = 20) -> ImageDataset:
    images = torch.randint(0, 256, (count, *config.image_shape), dtype=torch.uint8)
    return ImageDataset(images, torch.arange(count) % 10, tuple("abcdefghij"))


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_training_and_an_export_at_every_size(case: str) -> None:
    config = CASES[case]
    torch.manual_seed(0)
    dataset, state = noise(config), TrainState(config, 10, CPU)
    before = [parameter.clone() for parameter in state.generator.parameters()]
    train_iteration(state, dataset, torch.arange(config.n_critic * config.real_batch_size) % 20)
    # Both networks learn from images of that size, and the averaged one makes such images
    assert any(not torch.equal(a, b) for a, b in zip(before, state.generator.parameters(), strict=True))
    assert sample_grid(state.ema, config, dataset).shape == (100, *config.image_shape)
    # And the exported graph makes the same ones
    state.ema.eval()
    check_parity(export_generator(state.ema, config), state.ema, config, num_classes=10)


def test_a_residual_generator_gains_a_block_per_doubling() -> None:
    generator, discriminator = build_networks(CASES["resnet, 64"], 10)
    assert sizes(generator, GeneratorBlock, torch.randn(1, 8), torch.tensor([0])) == [8, 16, 32, 64]
    assert sizes(discriminator, DiscriminatorBlock, torch.randn(1, 3, 64, 64), torch.tensor([0])) == [32, 16, 8, 4]


def test_a_per_class_graph_keeps_the_size_of_its_parts() -> None:
    config = CASES["resnet, 64"].model_copy(update={"conditional": False})
    parts = [build_networks(config, 1)[0].eval() for _ in range(2)]
    model = PerClassGenerator(parts, config.image_shape).eval()
    check_parity(export_generator(model, config), model, config, num_classes=2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"resolution": 64}, "dcgan takes 4 values at 64 pixels"),
        ({"resolution": 48}, "Input should be 32, 64, 128 or 256"),
        ({"channels": 4}, "Input should be 1 or 3"),
    ],
)
def test_channels_that_do_not_fit_the_resolution_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve("tiny", overrides)
    assert caught.value.problems[0].message.startswith(message)


def test_the_keras_network_makes_32_pixels_only() -> None:
    with pytest.raises(InvalidInput, match="keras-dcgan makes 32 pixels only; choose resnet or dcgan"):
        resolve("dcgan", {"resolution": 64})


def sizes(network: nn.Module, kind: type[nn.Module], *inputs: torch.Tensor) -> list[int]:
    """Sides of the outputs of all modules of a kind."""
    seen: list[int] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *call: seen.append(call[-1].shape[-1]))
    network.eval()(*inputs)
    return seen
