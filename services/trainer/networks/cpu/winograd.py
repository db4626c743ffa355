"""DCGAN's convolutions (4x4, stride 2, padding 1) and their transposes with 9/16 of the multiplications.

A stride of two splits the image into four phases, and the 4x4 kernel into four of 2x2 with stride one. Winograd's
F(2x2, 2x2) computes those: in each direction, three products instead of four give two neighbouring outputs of a two-tap
filter (Lavin and Gray 2016, arXiv:1509.09308, section 4). All transforms are sums and differences, so in fp32 rounding
is no worse than in a plain convolution. The products become nine matrix products, at which a BLAS is fastest. In bf16
the transforms round once more: the error is 2.4 times that of a plain convolution in bf16.

Each transform is a linear map, and the derivative of the map is its adjoint. So autograd can differentiate to any
order, as the gradient penalty requires.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def conv4x4(images: Tensor, weight: Tensor) -> Tensor:
    """`F.conv2d(images, weight, stride=2, padding=1)`: [N, C, H, W], [D, C, 4, 4] -> [N, D, H/2, W/2], H and W by 4.

    Fastest where the weight lies as `lay_out_weight` puts it.
    """
    shape = tuple(images.shape)
    tiles = _apply(_to_multiply(images), _tiles, lambda v: _untiles(v, shape))  # [9, P, 4C]
    taps = _to_multiply(weight).permute(2, 3, 1, 0)  # [4, 4, C, D]
    filters = _apply(taps, _filters_first, _unfilters_first)  # [9, 4C, D]
    height, width = images.shape[2] // 2, images.shape[3] // 2
    return _apply(torch.bmm(tiles, filters), lambda m: _outputs(m, height, width), _unoutputs)


def conv_transpose4x4(images: Tensor, weight: Tensor) -> Tensor:
    """`F.conv_transpose2d(images, weight, stride=2, padding=1)`: [N, D, H, W], [D, C, 4, 4] -> [N, C, 2H, 2W].

    Fastest with a channels-last weight.
    """
    count, _, height, width = images.shape
    shape = (count, weight.shape[1], 2 * height, 2 * width)
    spread = _apply(_to_multiply(images), _unoutputs, lambda m: _outputs(m, height, width))  # [9, P, D]
    taps = _to_multiply(weight).permute(0, 2, 3, 1)  # [D, 4, 4, C]
    filters = _apply(taps, _filters_last, _unfilters_last)  # [9, D, 4C]
    return _apply(torch.bmm(spread, filters), lambda v: _untiles(v, shape), _tiles)


def _to_multiply(x: Tensor) -> Tensor:
    """`x` in the precision that autocast uses for products."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def lay_out_weight(weight: Tensor) -> Tensor:
    """The same [D, C, 4, 4] numbers with output channels next to each other in memory, as the products read them."""
    return weight.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


class _Linear(torch.autograd.Function):
    """A linear map whose derivative is its adjoint, whose derivative is the map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Map, adjoint: Map) -> Tensor:
        ctx.maps = forward, adjoint
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        forward, adjoint = ctx.maps
        return _apply(grads[0], adjoint, forward), None, None


def _apply(x: Tensor, forward: Map, adjoint: Map) -> Tensor:
    return cast(Tensor, _Linear.apply(x, forward, adjoint))


def _triples(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of positions 2t, 2t+1 and 2t+2 along a dimension of length 2T+1: the inputs of tile t."""
    last = x.shape[dim] - 1
    pairs = x.narrow(dim, 0, last).unflatten(dim, (-1, 2))  # type: ignore[no-untyped-call]
    return (
        pairs.select(dim + 1, 0),
        pairs.select(dim + 1, 1),
        x.narrow(dim, 1, last).unflatten(dim, (-1, 2)).select(dim + 1, 1),  # type: ignore[no-untyped-call]
    )


def _tiles(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [9, N*H/4*W/4, 4C]: d0 - d1, d1, d2 - d1 of each tile, down and across."""
    count, channels, height, width = x.shape
    rows, columns = height // 4, width // 4
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).view(count, 2 * rows + 1, 2, 2 * columns + 1, 2, channels)
    tiles = x.new_empty(3, 3, count, rows, columns, 2, 2, channels)
    d0, d1, d2 = _triples(padded, 1)
    for i, down in enumerate((d0 - d1, d1, d2 - d1)):  # [N, T, 2, W/2 + 1, 2, C]
        e0, e1, e2 = _triples(down, 3)
        out = tiles[i].transpose(3, 4)  # [3, N, T, 2, T, 2, C]
        torch.sub(e0, e1, out=out[0])
        out[1].copy_(e1)
        torch.sub(e2, e1, out=out[2])
    return tiles.view(9, count * rows * columns, 4 * channels)


def _untiles(tiles: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Adjoint of `_tiles`: the sum over the tiles that contain an input."""
    count, channels, height, width = shape
    rows, columns = height // 4, width // 4
    split = tiles.reshape(3, 3, count, rows, columns, 2, 2, channels).transpose(4, 5)
    down = tiles.new_empty(3, count, rows, 2, 2 * columns + 1, 2, channels)
    for i in range(3):
        _scatter(split[i], down[i], 3)
    padded = tiles.new_empty(count, 2 * rows + 1, 2, 2 * columns + 1, 2, channels)
    _scatter(down, padded, 1)
    images = padded.view(count, height + 2, width + 2, channels)[:, 1:-1, 1:-1]
    return images.contiguous().permute(0, 3, 1, 2)


def _scatter(parts: Tensor, into: Tensor, dim: int) -> None:
    d0, d1, d2 = _triples(into, dim)  # d2 overlaps the d0 of the next tile, but for the last
    into.select(dim, -1).zero_()
    d0.copy_(parts[0])
    torch.sub(parts[1], parts[0], out=d1)
    d1.sub_(parts[2])
    d2.add_(parts[2])


def _outputs(products: Tensor, height: int, width: int) -> Tensor:
    """[9, P, D] -> [N, D, H, W]: m0 + m1 and m1 + m2 of each tile, down and across."""
    channels = products.shape[2]
    m = products.reshape(3, 3, -1, height // 2, width // 2, channels)
    images = products.new_empty(m.shape[2], height // 2, 2, width // 2, 2, channels)
    for i, down in enumerate((m[0] + m[1], m[1] + m[2])):
        torch.add(down[0], down[1], out=images[:, :, i, :, 0])
        torch.add(down[1], down[2], out=images[:, :, i, :, 1])
    return images.view(-1, height, width, channels).permute(0, 3, 1, 2)


def _unoutputs(images: Tensor) -> Tensor:
    """Adjoint of `_outputs`."""
    count, channels, height, width = images.shape
    y = images.permute(0, 2, 3, 1).reshape(count, height // 2, 2, width // 2, 2, channels)
    products = images.new_empty(3, 3, count, height // 2, width // 2, channels)
    for i, down in enumerate((y[:, :, 0], y[:, :, 0] + y[:, :, 1], y[:, :, 1])):
        products[i, 0].copy_(down[:, :, :, 0])
        torch.add(down[:, :, :, 0], down[:, :, :, 1], out=products[i, 1])
        products[i, 2].copy_(down[:, :, :, 1])
    return products.view(9, -1, channels)


def _filters(taps: Tensor, down_dim: int, across_dim: int, out: Tensor) -> None:
    """g0, g0 + g1, g1 of the two taps, down and across, into out [3, 3, ...]."""
    first, second = taps.unbind(down_dim)
    for i, down in enumerate((first, first + second, second)):
        left, right = down.unbind(across_dim - 1)
        out[i, 0].copy_(left)
        torch.add(left, right, out=out[i, 1])
        out[i, 2].copy_(right)


def _unfilters(filters: Tensor, down_dim: int, across_dim: int, taps: Tensor) -> None:
    """Adjoint of `_filters`."""
    for down, part in zip((filters[0] + filters[1], filters[1] + filters[2]), taps.unbind(down_dim), strict=True):
        left, right = part.unbind(across_dim - 1)
        torch.add(down[0], down[1], out=left)
        torch.add(down[1], down[2], out=right)


def _filters_first(weight: Tensor) -> Tensor:
    """[4, 4, C, D] -> [9, 4C, D]; a row of the kernel is tap * 2 + phase."""
    _, _, c, d = weight.shape
    out = weight.new_empty(3, 3, 2, 2, c, d)
    _filters(weight.reshape(2, 2, 2, 2, c, d), 0, 2, out)
    return out.view(9, 4 * c, d)


def _unfilters_first(filters: Tensor) -> Tensor:
    c, d = filters.shape[1] // 4, filters.shape[2]
    taps = filters.new_empty(2, 2, 2, 2, c, d)
    _unfilters(filters.reshape(3, 3, 2, 2, c, d), 0, 2, taps)
    return taps.view(4, 4, c, d)


def _filters_last(weight: Tensor) -> Tensor:
    """[D, 4, 4, C] -> [9, D, 4C]."""
    d, _, _, c = weight.shape
    out = weight.new_empty(3, 3, d, 2, 2, c)
    _filters(weight.reshape(d, 2, 2, 2, 2, c), 1, 3, out)
    return out.view(9, d, 4 * c)


def _unfilters_last(filters: Tensor) -> Tensor:
    d, c = filters.shape[1], filters.shape[2] // 4
    taps = filters.new_empty(d, 2, 2, 2, 2, c)
    _unfilters(filters.reshape(3, 3, d, 2, 2, c), 1, 3, taps)
    return taps.view(d, 4, 4, c)
