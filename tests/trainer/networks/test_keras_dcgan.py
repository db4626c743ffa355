"""The networks of report 2, against counts and values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from services.trainer.networks import keras_dcgan
from services.trainer.networks.build import build_networks, count_parameters
from shared.configs.presets import PRESETS
from tests.trainer.small import small_keras

# Weights and biases of a 3x3 convolution: 9 * in * out + out. Of a dense layer: in * out + out.
D_BY_HAND = (9 * 3 * 32 + 32) + (9 * 32 * 64 + 64) + (64 * 8 * 8 * 1 + 1)  # 896 + 18,496 + 4,097 (4,096 flattened)
# 8,192 = 8 * 8 * 128 units; 100 * 8,192 + 8,192 = 827,392, then 73,792 + 18,464 + 867
G_BY_HAND = (100 * 8192 + 8192) + (9 * 128 * 64 + 64) + (9 * 64 * 32 + 32) + (9 * 32 * 3 + 3)
# A batch norm has scale and shift for each channel (and two averages that are not trained, which Keras counts too).
D_NORMS, G_NORMS = 2 * (32 + 64), 2 * (128 + 64 + 32)

BY_HAND = dict.fromkeys((name for name in PRESETS if name.startswith("dcgan")), (G_BY_HAND, D_BY_HAND)) | {
    "dcgan-batchnorm": (G_BY_HAND + G_NORMS, D_BY_HAND + D_NORMS),
    "dcgan-latent-50": (G_BY_HAND - 50 * 8192, D_BY_HAND),
    "dcgan-latent-150": (G_BY_HAND + 50 * 8192, D_BY_HAND),
    "bndrhl": (G_BY_HAND + 50 * 8192 + G_NORMS, D_BY_HAND + D_NORMS),
}


def test_the_parameter_counts_by_hand() -> None:
    assert (G_BY_HAND, D_BY_HAND, G_NORMS, D_NORMS) == (920_515, 23_489, 448, 192)


@pytest.mark.parametrize("name", BY_HAND)
def test_networks_have_the_parameter_counts_by_hand(name: str) -> None:
    generator, discriminator = build_networks(PRESETS[name].config, num_classes=10)
    assert (count_parameters(generator), count_parameters(discriminator)) == BY_HAND[name]


def test_the_layers_are_those_of_the_report() -> None:
    generator, discriminator = build_networks(PRESETS["dcgan"].config, num_classes=10)
    # Dense is [out, in], transposed convolutions are [in, out, 3, 3], convolutions [out, in, 3, 3].
    assert weights(generator) == [(8192, 100), (128, 64, 3, 3), (64, 32, 3, 3), (3, 32, 3, 3)]
    assert weights(discriminator) == [(32, 3, 3, 3), (64, 32, 3, 3), (1, 4096)]


def test_the_resolutions_are_those_of_the_report() -> None:
    generator, discriminator = build_networks(PRESETS["dcgan"].config, num_classes=10)
    labels = torch.zeros(2, dtype=torch.int64)
    upward = activations(generator, nn.LeakyReLU, torch.randn(2, 100), labels)
    downward = activations(discriminator, nn.LeakyReLU, torch.randn(2, 3, 32, 32), labels)
    assert upward == [(128, 8, 8), (64, 16, 16), (32, 32, 32)]
    assert downward == [(32, 16, 16), (64, 8, 8)]


def test_slope_and_padding_are_those_of_keras() -> None:
    """One pixel at a time through the first layer of D, all of whose weights are 1: -1 or 1 in, slope or sum out."""
    _, discriminator = build_networks(
        small_keras(d_channels=[1, 1], pixel_range="symmetric", leaky_slope=0.3), num_classes=10
    )
    assert isinstance(discriminator, keras_dcgan.Discriminator)
    first = discriminator.convolutions[0]
    assert isinstance(first, nn.Conv2d)
    nn.init.ones_(first.weight)
    discriminator.convolutions[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :, :-1, :-1]))
    seen: list[Tensor] = []
    for place, value in (((0, 0), 1.0), ((1, 1), 1.0), ((31, 31), 1.0), ((2, 2), -1.0)):
        images = torch.zeros(1, 3, 32, 32)
        images[0, 0, place[0], place[1]] = value
        discriminator(images, torch.zeros(1, dtype=torch.int64))
    # "same" of an even width at stride two adds its one column at the right: output i sees pixels 2i to 2i + 2.
    assert [sorted(map(tuple, x[0, 0].nonzero().tolist())) for x in seen] == [
        [(0, 0)], [(0, 0)], [(15, 15)], [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]  # fmt: skip
    assert seen[0].max().item() == 1
    assert seen[3].min().item() == pytest.approx(-0.3)


def test_a_transposed_convolution_is_the_gradient_of_the_convolution_as_in_keras() -> None:
    # Given the same weights [16, 8, 3, 3] in a layer of the generator and in one of a discriminator
    generator, _ = build_networks(small_keras(g_channels=[16, 8, 8]), num_classes=10)
    assert isinstance(generator, keras_dcgan.Generator)
    up = generator.convolutions[0]
    assert isinstance(up, nn.ConvTranspose2d)
    small, large = torch.randn(2, 16, 8, 8), torch.randn(2, 8, 16, 16, requires_grad=True)
    # When the discriminator's convolution pads as above, and its gradient is computed
    down = nn.functional.conv2d(nn.functional.pad(large, (0, 1, 0, 1)), up.weight, stride=2)
    (expected,) = torch.autograd.grad(down, large, small)
    # Then the gradient equals the generator's output for its small image
    seen: list[Tensor] = []
    generator.activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator.norms[0].register_forward_hook(lambda *_: small)
    generator(torch.randn(2, 8), torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(seen[1], expected)


def test_initial_weights_follow_glorot() -> None:
    generator, discriminator = build_networks(PRESETS["dcgan"].config, num_classes=10)
    # U(-a, a), a = sqrt(6 / (fan in + fan out)); fans of a 3x3 kernel count its nine places.
    limits = {(8192, 100): 6 / 8292, (128, 64, 3, 3): 6 / 1728, (1, 4096): 6 / 4097, (32, 3, 3, 3): 6 / 315}
    parameters = {tuple(p.shape): p for network in (generator, discriminator) for p in network.parameters()}
    for shape, square in limits.items():
        assert parameters[shape].abs().max().item() == pytest.approx(square**0.5, rel=0.02)
        assert parameters[shape].std().item() == pytest.approx((square / 3) ** 0.5, rel=0.1)
    biases = [p for network in (generator, discriminator) for p in network.parameters() if p.dim() == 1]
    assert not any(bias.any() for bias in biases)


def test_dropout_zeroes_forty_percent_in_training_and_nothing_in_evaluation() -> None:
    _, discriminator = build_networks(PRESETS["dcgan-dropout"].config, num_classes=10)
    images, labels = torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
    seen: list[Tensor] = []
    assert isinstance(discriminator.score, nn.Linear)
    discriminator.score.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    discriminator.train()(images, labels)
    discriminator.eval()(images, labels)
    dropped, evaluated = ((x == 0).float().mean().item() for x in seen)
    assert dropped == pytest.approx(0.4, abs=0.01)
    assert evaluated == 0


def test_softmax_makes_the_colours_of_a_pixel_add_up_to_one() -> None:
    generator, _ = build_networks(PRESETS["dcgan-softmax"].config, num_classes=10)
    images = generator(torch.randn(3, 100), torch.zeros(3, dtype=torch.int64))
    colours = (images + 1) / 2  # the row trains on pixels in [0, 1]
    assert colours.min() > 0
    torch.testing.assert_close(colours.sum(1), torch.ones(3, 32, 32))


def test_only_the_generator_uses_relu() -> None:
    generator, discriminator = build_networks(PRESETS["dcgan-relu"].config, num_classes=10)
    assert [type(network.activation) for network in (generator, discriminator)] == [nn.ReLU, nn.LeakyReLU]


def test_the_class_joins_the_latent_vector_as_a_one_hot_vector() -> None:
    generator, _ = build_networks(small_keras(conditional=True), num_classes=10)
    assert isinstance(generator, keras_dcgan.Generator)
    assert generator.class_weights is not None
    z, labels = torch.randn(4, 8), torch.tensor([0, 3, 3, 9])
    seen: list[Tensor] = []
    generator.activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
    generator(z, labels)
    joined = torch.cat([z, nn.functional.one_hot(labels, 10)], 1)  # [N, latent + classes]
    weight = torch.cat([generator.dense.weight, generator.class_weights.weight.T], 1)
    torch.testing.assert_close(seen[0], joined @ weight.T + generator.dense.bias)


def weights(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in network.parameters() if p.dim() > 1]


def activations(network: nn.Module, kind: type[nn.Module], *inputs: Tensor) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    network(*inputs)
    return seen
