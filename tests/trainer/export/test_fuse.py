"""Fused graphs generate the same images."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.generator.soft_labels import SOFT_LABELS, with_soft_labels
from services.trainer.export.fuse import _Doubling, _SquareBySquare, fuse_for_inference
from services.trainer.export.onnx import export_generator
from services.trainer.networks.build import build_networks
from services.trainer.networks.cpu.resample import double_filters
from services.trainer.networks.per_class_generator import PerClassGenerator
from shared.configs.train import TrainConfig
from tests.trainer.small import small_config, small_keras, small_resnet

ATOL = 2e-5  # rounding of float32, for a range of 2
WIDE = [16, 16, 16]  # with fewer channels, upsampling is not merged
KINDS = {
    "dcgan": small_config("wgan-gp", g_channels=WIDE),
    "dcgan, conditional": small_config(g_channels=WIDE),
    "dcgan, conditional, of two widths": small_config(g_channels=[16, 8, 16]),
    "keras-dcgan": small_keras(batch_norm=True),
    "keras-dcgan, conditional, softmax": small_keras(conditional=True, batch_norm=True, g_output="softmax"),
    "resnet": small_resnet("wgan-gp"),
    "resnet, conditional": small_resnet(),
}
KNOWS_CLASSES_BY_NORM = ["dcgan, conditional", "dcgan, conditional, of two widths", "resnet, conditional"]


def trained(config: TrainConfig) -> nn.Module:
    """A generator without trivial norms: some variances are only a hundred times their epsilon."""
    torch.manual_seed(0)
    generator, _ = build_networks(config, num_classes=10)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features)
            module.running_var = 10 ** torch.empty(module.num_features).uniform_(-3, 0)
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.data, module.bias.data = torch.randn(2, module.num_features)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data *= 0.1 / module.weight.std()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    last = [module for module in generator.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)][-1]
    with torch.no_grad():  # colours in the middle of their range, where tanh does not hide differences
        last.weight *= 0.5 / contrast(generator.eval(), last)
    return generator


def contrast(generator: nn.Module, last: nn.Module) -> float:
    """Standard deviation of the last convolution's output for 64 images."""
    made: list[Tensor] = []
    hook = last.register_forward_hook(lambda _module, _inputs, output: made.append(output))
    generator(torch.randn(64, 8), torch.arange(64) % 10)
    hook.remove()
    return made[0].std().item()


def run(graph: bytes, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (images,) = session.run(["images"], {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(np.asarray(images))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_graph_generates_the_same_images(kind: str) -> None:
    # Given a generator with statistics and tables as after training, and its images
    generator = trained(KINDS[kind])
    z, labels = torch.randn(20, 8), torch.arange(20) % 10
    with torch.no_grad():
        expected = generator(z, labels)
    assert expected.std() > 0.1
    # When it is exported, Then the graph generates the same images
    torch.testing.assert_close(
        run(export_generator(generator, KINDS[kind]), z=z, labels=labels), expected, rtol=0, atol=ATOL
    )
    # And the generator is unchanged
    with torch.no_grad():
        assert torch.equal(generator(z, labels), expected)


@pytest.mark.parametrize("kind", KNOWS_CLASSES_BY_NORM)
def test_conditional_batch_norms_are_merged(kind: str) -> None:
    model = onnx.load_from_string(export_generator(trained(KINDS[kind]), KINDS[kind]))
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Gather") >= 2


@pytest.mark.parametrize("kind", ["resnet", "resnet, conditional"])
def test_only_shortcuts_upsample_by_repeating_pixels(kind: str) -> None:
    model = onnx.load_from_string(export_generator(trained(KINDS[kind]), KINDS[kind]))
    doubled = {node.output[0] for node in model.graph.node if node.op_type == "Resize"}
    readers = [node.op_type for node in model.graph.node if doubled & set(node.input)]
    assert readers == ["Add"] * 3


def test_classes_mix_in_fused_tables_as_in_the_original_ones() -> None:
    # Given a network whose class 0 is 3/4 of class 3 and 1/4 of class 7
    config = KINDS["resnet, conditional"]
    generator = trained(config)
    graph = with_soft_labels(export_generator(generator, config))
    assert graph is not None
    for module in generator.modules():
        if isinstance(module, nn.Embedding):
            module.weight.data[0] = 0.75 * module.weight[3] + 0.25 * module.weight[7]
    z, weights = torch.randn(5, 8), torch.zeros(5, 10)
    weights[:, 3], weights[:, 7] = 0.75, 0.25
    # When the exported graph mixes classes 3 and 7, Then the result is class 0
    with torch.no_grad():
        expected = generator(z, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(run(graph, z=z, **{SOFT_LABELS: weights}), expected, rtol=0, atol=ATOL)


def test_each_generator_of_a_per_class_model_is_fused() -> None:
    config = KINDS["dcgan"]
    parts = [trained(config), trained(config)]
    parts[1].convolutions[-1].weight.data *= -1  # type: ignore[index,union-attr]
    z, labels = torch.randn(6, 8), torch.tensor([0, 1, 1, 0, 1, 0])
    model = PerClassGenerator(parts, (3, 32, 32)).eval()
    with torch.no_grad():
        expected = model(z, labels)
    torch.testing.assert_close(run(export_generator(model, config), z=z, labels=labels), expected, rtol=0, atol=ATOL)


def test_doubling_and_squares_equal_the_convolutions_they_replace() -> None:
    torch.manual_seed(0)
    x, convolution = torch.randn(2, 3, 6, 6), nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    doubled = convolution(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    bias = convolution.bias
    assert bias is not None
    torch.testing.assert_close(_Doubling(double_filters(convolution.weight), bias)(x), doubled)
    torch.testing.assert_close(_SquareBySquare(convolution)(x), convolution(x))


def test_a_one_tap_filter_moves_the_upsampled_image_by_one_pixel() -> None:
    """The filter has a single 1, in its upper left corner."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 0, 0] = 1
    x = torch.tensor([[[[1.0, 2], [3, 4]]]])
    moved = torch.tensor([[[[0.0, 0, 0, 0], [0, 1, 1, 2], [0, 1, 1, 2], [0, 3, 3, 4]]]])
    assert torch.equal(_Doubling(double_filters(weight), torch.zeros(1))(x), moved)


def test_an_unknown_network_is_not_changed() -> None:
    network = nn.Linear(2, 3)
    assert torch.equal(fuse_for_inference(network)(torch.ones(1, 2)), network(torch.ones(1, 2)))
