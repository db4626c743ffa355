"""Upsampling and pooling that are merged with a convolution give the same images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.trainer.networks import resnet
from services.trainer.networks.cpu.resample import double_filters, halve_filters
from services.trainer.networks.layers import ConditionalBatchNorm2d
from services.trainer.networks.strided import Products
from shared.configs.train import TrainConfig
from tests.trainer.small import small_resnet


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_filters_of_ones_count_how_many_taps_see_each_pixel() -> None:
    # Given a filter of nine ones; each value is the number of its taps that cover a pixel, counted by hand
    ones = torch.ones(1, 1, 3, 3)
    counts = torch.outer(torch.tensor([1.0, 2, 2, 1]), torch.tensor([1.0, 2, 2, 1]))
    assert torch.equal(double_filters(ones)[0, 0], counts)
    assert torch.equal(halve_filters(ones)[0, 0], counts / 4)


def test_folded_filters_replace_doubling_and_pooling() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 8, 8, generator=rng).double(), torch.randn(5, 3, 3, 3, generator=rng).double()
    doubled = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    halved = F.avg_pool2d(F.conv2d(x, weight, padding=1), 2)
    by_double = F.conv_transpose2d(x, double_filters(weight), stride=2, padding=1)
    by_half = F.conv2d(x, halve_filters(weight), stride=2, padding=1)
    assert_same(by_double, doubled)
    assert_same(by_half, halved)


@pytest.mark.parametrize("config", [small_resnet(), small_resnet("best", d_channels=[8] * 4), small_resnet("wgan-gp")])
def test_networks_with_folded_products_compute_the_same(config: TrainConfig) -> None:
    """In double precision, with the class, without it, with a class loss, and with blocks that keep the size."""
    # Given the same weights in networks with plain and with merged convolutions
    torch.manual_seed(0)
    classes, folded = 10 if config.conditional else None, Products(resample=True)
    generator, discriminator = (
        resnet.Generator(config, classes).double(),
        resnet.Discriminator(config, classes).double(),
    )
    fast_generator = resnet.Generator(config, classes, folded).double()
    fast_discriminator = resnet.Discriminator(config, classes, folded).double()
    fast_generator.load_state_dict(generator.state_dict())
    fast_discriminator.load_state_dict(discriminator.state_dict())
    for network in (discriminator, fast_discriminator):
        network.eval()  # no power iteration between the two calls
    z, labels, images = torch.randn(4, 8).double(), torch.arange(4), torch.randn(4, 3, 32, 32).double()
    # Then images and scores agree
    assert_same(fast_generator(z, labels), generator(z, labels))
    torch.testing.assert_close(
        fast_discriminator.forward_with_logits(images, labels), discriminator.forward_with_logits(images, labels)
    )


def test_conditional_batch_norm_keeps_images_in_bf16() -> None:
    """Otherwise everything after a conditional batch norm would be computed in fp32, at half the speed."""
    norm = ConditionalBatchNorm2d(4, 10)
    torch.nn.init.normal_(norm.scale.weight)  # type: ignore[union-attr]
    x, labels = torch.randn(8, 4, 2, 2), torch.arange(8)
    expected = norm(x, labels)
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(x.bfloat16(), labels)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.03)
