"""Winograd convolutions equal torch's: values, first and second derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from services.trainer.networks.cpu.winograd import conv4x4, conv_transpose4x4, lay_out_weight

SHAPES = [(1, 1, 1, 4, 4), (3, 5, 7, 16, 8), (2, 16, 4, 8, 32)]  # images, channels in, channels out, height, width


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize(("n", "c", "d", "height", "width"), SHAPES)
def test_winograd_convolution_equals_torchs(n: int, c: int, d: int, height: int, width: int) -> None:
    images, weight = doubles(n, c, height, width), doubles(d, c, 4, 4)
    expected = F.conv2d(images, weight, stride=2, padding=1)
    for memory in (torch.contiguous_format, torch.channels_last):
        got = conv4x4(images.contiguous(memory_format=memory), lay_out_weight(weight))
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "c", "d", "height", "width"), SHAPES)
def test_winograd_transposed_convolution_equals_torchs(n: int, c: int, d: int, height: int, width: int) -> None:
    images, weight = doubles(n, d, height // 2, width // 2), doubles(d, c, 4, 4)
    expected = F.conv_transpose2d(images, weight, stride=2, padding=1)
    torch.testing.assert_close(conv_transpose4x4(images, weight), expected, rtol=1e-12, atol=1e-12)


def test_first_and_second_derivatives_agree_with_finite_differences() -> None:
    for product, images in ((conv4x4, doubles(1, 2, 8, 4)), (conv_transpose4x4, doubles(1, 2, 2, 4))):
        weight = doubles(2, 2, 4, 4)
        assert torch.autograd.gradcheck(product, (images, weight))
        assert torch.autograd.gradgradcheck(product, (images, weight))


def test_in_single_precision_rounding_is_as_small_as_torchs() -> None:
    # Given a layer of report 1's discriminator, and its result in double precision
    images, weight = doubles(8, 128, 16, 16).detach(), doubles(256, 128, 4, 4).detach()
    exact = F.conv2d(images, weight, stride=2, padding=1)
    # Then the error of both is near the last bit of a float; Winograd's is a few times larger at most
    scale = exact.abs().max().item()
    plain = (F.conv2d(images.float(), weight.float(), stride=2, padding=1) - exact).abs().max().item() / scale
    fast = (conv4x4(images.float(), weight.float()) - exact).abs().max().item() / scale
    assert 0 < plain < 5e-6
    assert 0 < fast < 5e-6


def test_in_bf16_rounding_is_a_few_times_torchs() -> None:
    # Given the same layer under autocast, and its derivatives
    images, weight = doubles(8, 128, 16, 16), doubles(256, 128, 4, 4)
    exact = F.conv2d(images, weight, stride=2, padding=1)
    back = torch.randn(exact.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    exacts = (exact, *torch.autograd.grad(exact, (images, weight), back))
    errors: list[list[float]] = []
    for product in (lambda x, w: F.conv2d(x, w, stride=2, padding=1), conv4x4):
        inputs = [t.detach().float().requires_grad_() for t in (images, weight)]
        with torch.autocast("cpu", torch.bfloat16):
            out = product(*inputs)
        assert out.dtype == torch.bfloat16
        got = (out, *torch.autograd.grad(out, inputs, back.bfloat16()))
        errors.append([((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, exacts, strict=True)])
    # Then the error is a fraction of a percent, as expected of bf16
    plain, fast = errors
    assert 1e-3 < max(plain) < 4e-3
    assert 1e-3 < max(fast) < 1e-2
