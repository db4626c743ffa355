"""The networks are those of the presets: sizes, shapes, and the effect of the class."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.networks.build import build_networks, count_parameters
from services.trainer.networks.discriminator import Discriminator
from services.trainer.networks.layers import ConditionalBatchNorm2d
from services.trainer.networks.resnet import DiscriminatorBlock
from shared.configs.presets import PRESETS, resolve
from shared.configs.train import TrainConfig
from tests.trainer.small import small_config, small_keras, small_resnet

KINDS = {
    "dcgan": small_config("wgan-gp"),
    "dcgan, conditional": small_config("wgan-gp-conditional"),
    "dcgan, spectral norm": small_config("tiny", spectral_norm=True),
    "keras-dcgan": small_keras(),
    "keras-dcgan, conditional, softmax": small_keras(conditional=True, g_activation="relu", g_output="softmax"),
    "keras-dcgan, conditional, batch norm": small_keras(conditional=True, batch_norm=True),
    "keras-dcgan, conditional, spectral norm": small_keras(conditional=True, spectral_norm=True),
    "resnet": small_resnet(conditional=False),
    "resnet, conditional": small_resnet(),
    "resnet, two stages, spectral norm": small_resnet(d_channels=[8, 8], spectral_norm=True),
    "resnet, two blocks that keep the size": small_resnet(d_channels=[8, 8, 8, 6], d_halvings=2),
}
CONDITIONAL = [name for name, config in KINDS.items() if config.conditional]
UNCONDITIONAL = [name for name, config in KINDS.items() if not config.conditional]


def test_wgan_gp_has_the_parameter_counts_of_report_1() -> None:
    generator, discriminator = build_networks(PRESETS["wgan-gp"].config, num_classes=10)
    assert count_parameters(generator) == 3_448_576
    assert count_parameters(discriminator) == 2_637_312


def test_wgan_gp_has_the_layers_of_report_1() -> None:
    generator, discriminator = build_networks(PRESETS["wgan-gp"].config, num_classes=10)
    # Transposed convolutions are [in, out, height, width]; then scale and shift of each batch norm.
    assert shapes(generator) == [
        (100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 3, 4, 4),
        (512,), (512,), (256,), (256,), (128,), (128,),
    ]  # fmt: skip
    # Convolutions are [out, in, height, width]; there is no batch norm after the first and the last.
    assert shapes(discriminator) == [
        (128, 3, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4),
        (256,), (256,), (512,), (512,),
        (1, 512, 4, 4),
    ]  # fmt: skip


def test_wgan_gp_goes_through_the_resolutions_of_report_1() -> None:
    generator, discriminator = build_networks(PRESETS["wgan-gp"].config, num_classes=10)
    z, labels = torch.randn(2, 100), torch.zeros(2, dtype=torch.int64)
    upward = feature_maps(generator, nn.ConvTranspose2d, z, labels)
    downward = feature_maps(discriminator, nn.Conv2d, torch.randn(2, 3, 32, 32), labels)
    assert upward == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (3, 32, 32)]
    assert downward == [(128, 16, 16), (256, 8, 8), (512, 4, 4), (1, 1, 1)]


@pytest.mark.parametrize("name", PRESETS)
def test_the_preset_table_has_the_real_parameter_counts(name: str) -> None:
    generator, discriminator = build_networks(PRESETS[name].config, num_classes=10)
    counted = {"generator": count_parameters(generator), "discriminator": count_parameters(discriminator)}
    assert counted == PRESETS[name].parameters


def test_an_override_of_channels_changes_the_networks() -> None:
    # Given channels that no preset has
    config = resolve("wgan-gp", {"latent_dim": 5, "g_channels": [4, 3, 2], "d_channels": [2, 3, 4]})
    # When the networks are built
    generator, discriminator = build_networks(config, num_classes=10)
    # Then their sizes match a calculation by hand: 4x4 kernels, and two numbers per normalised channel
    assert count_parameters(generator) == 16 * (5 * 4 + 4 * 3 + 3 * 2 + 2 * 3) + 2 * (4 + 3 + 2)
    assert count_parameters(discriminator) == 16 * (3 * 2 + 2 * 3 + 3 * 4 + 4 * 1) + 2 * (3 + 4)


def test_only_the_first_blocks_of_a_residual_discriminator_halve_as_in_sngan() -> None:
    # Given the preset of SNGAN's table 4, and the size and the channels of each block's output
    _, discriminator = build_networks(PRESETS["best"].config, num_classes=10)
    seen = feature_maps(discriminator, DiscriminatorBlock, torch.randn(1, 3, 32, 32), torch.tensor([0]))
    assert seen == [(256, 16, 16), (256, 8, 8), (256, 8, 8), (256, 8, 8)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5])
def test_generators_make_images_and_discriminators_score_them(kind: str, count: int) -> None:
    config = KINDS[kind]
    generator, discriminator = randomized_networks(config)
    labels = torch.arange(count)
    images = generator(100 * torch.randn(count, config.latent_dim), labels)
    scores = discriminator(images, labels)
    assert images.shape == (count, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.max() <= 1
    # tanh of a pixel range [0, 1], scaled to [-1, 1]: training images reach -3, exported ones are clamped
    assert images.min() >= (-3 if config.pixel_range == "unit" else -1)
    assert images.std() > 0.1
    assert scores.shape == (count,)
    assert scores.std() > 0


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_only_a_discriminator_with_a_class_loss_has_logits(kind: str) -> None:
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    without, with_loss = (
        randomized_networks(KINDS[kind].model_copy(update={"class_weight": weight}))[1].eval() for weight in (0.0, 0.1)
    )
    assert without.forward_with_logits(images, labels)[1] is None
    scores, logits = with_loss.forward_with_logits(images, labels)
    assert logits is not None
    assert logits.shape == (4, 10)
    assert torch.equal(scores, with_loss(images, labels))
    # The logits depend on the image, and not on the label
    torch.testing.assert_close(with_loss.forward_with_logits(images, labels + 3)[1], logits)


@pytest.mark.parametrize("kind", UNCONDITIONAL)
def test_unconditional_networks_ignore_the_labels(kind: str) -> None:
    generator, discriminator = randomized_networks(KINDS[kind])
    z, images = torch.randn(4, KINDS[kind].latent_dim), torch.randn(4, 3, 32, 32)
    zeros, others = torch.zeros(4, dtype=torch.int64), torch.arange(4) + 3
    assert torch.equal(generator(z, zeros), generator(z, others))
    assert torch.equal(discriminator(images, zeros), discriminator(images, others))


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_a_label_changes_its_own_image_and_score_and_no_other(kind: str) -> None:
    # Given networks in evaluation mode, where images of a batch are independent
    generator, discriminator = (network.eval() for network in randomized_networks(KINDS[kind]))
    z, images = torch.randn(4, KINDS[kind].latent_dim), torch.randn(4, 3, 32, 32)
    # When the third of four labels changes
    before, after = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 9, 3])
    # Then the third image and the third score change, and the others do not
    image_change = (generator(z, before) - generator(z, after)).abs().amax((1, 2, 3))
    score_change = (discriminator(images, before) - discriminator(images, after)).abs()
    for change in (image_change, score_change):
        assert (change > 1e-4).tolist() == [False, False, True, False]


def test_conditional_batch_norm_is_batch_norm_with_scale_and_shift_by_class() -> None:
    # Given another scale and shift for each of three classes
    layer = ConditionalBatchNorm2d(2, num_classes=3)
    assert layer.scale is not None
    assert layer.shift is not None
    layer.scale.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    layer.shift.weight.data = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    x, labels = torch.randn(4, 2, 3, 3), torch.tensor([2, 0, 0, 1])
    # When a batch passes
    y = layer(x, labels)
    # Then it is normalised as one batch, and scaled and shifted image by image
    normal = F.batch_norm(x, None, None, training=True)
    for i, label in enumerate(labels.tolist()):
        for channel in range(2):
            scale, shift = 1 + 2 * label + channel, 2 * label + channel
            torch.testing.assert_close(y[i, channel], scale * normal[i, channel] + shift)


@pytest.mark.parametrize("kind", [name for name, config in KINDS.items() if config.spectral_norm])
def test_spectral_norm_brings_the_largest_singular_value_of_every_weight_to_one(kind: str) -> None:
    # Given a discriminator of large weights
    torch.manual_seed(0)
    _, discriminator = build_networks(KINDS[kind], num_classes=10)
    for parameter in discriminator.parameters():
        parameter.data = torch.randn_like(parameter)
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    # When its power iterations, one per use of a weight in training, have converged
    weights = [[layer.weight for _ in range(100)][-1] for layer in layers]
    # Then the largest singular value of every weight is one
    norms = [torch.linalg.matrix_norm(weight.flatten(1), ord=2).item() for weight in weights]
    assert norms == pytest.approx([1.0] * len(norms), abs=0.01)
    assert len(norms) >= 4


def test_dcgan_starts_from_normal_weights_of_standard_deviation_one_fiftieth() -> None:
    for network in build_networks(PRESETS["wgan-gp-conditional"].config, num_classes=10):
        weights = [p for p in network.parameters() if p.dim() == 4]
        assert [w.std().item() for w in weights] == pytest.approx([0.02] * 4, rel=0.05)
        assert [w.mean().item() for w in weights] == pytest.approx([0.0] * 4, abs=0.001)


def randomized_networks(config: TrainConfig) -> tuple[nn.Module, Discriminator]:
    """With random weights: initial class embeddings are all alike, and initial scores nearly zero."""
    torch.manual_seed(0)
    networks = build_networks(config, num_classes=10)
    for network in networks:
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return networks


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in network.parameters()]


def feature_maps(network: nn.Module, kind: type[nn.Module], *inputs: Tensor) -> list[tuple[int, ...]]:
    """Output shapes [C, H, W] of the layers of one kind, in the order of their calls."""
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    network(*inputs)
    return seen


@pytest.mark.parametrize(
    "config", [small_config("tiny"), small_config("tiny", spectral_norm=True), small_keras("bndrhl")]
)
def test_a_checkpoint_with_the_former_name_of_the_class_projection_loads(config: TrainConfig) -> None:
    _, discriminator = build_networks(config.model_copy(update={"conditional": True}), num_classes=10)
    saved = discriminator.state_dict()
    former = {name.replace("class_projection", "class_filters"): value for name, value in saved.items()}
    assert former.keys() != saved.keys()
    _, loaded = build_networks(config.model_copy(update={"conditional": True}), num_classes=10)
    loaded.load_state_dict(former)
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
