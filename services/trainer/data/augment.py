"""Augments whole batches on the device, with the semantics of torchvision.transforms.v2.

Order: flip, rotate, crop. Input is uint8 [N, 3, H, W], output float32 in [-1, 1]. Pixels from outside the image, by
rotation or padding, are black (-1), as with torchvision's default fill.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.configs.train import TrainConfig


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """float -1..1 -> uint8 0..255, rounded to nearest and clamped."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def augment(images: Tensor, config: TrainConfig) -> Tensor:
    """Transforms each image at random, with torch's global generator. [N, 3, H, W] uint8 -> float32."""
    count, device = len(images), images.device
    if config.flip:
        images = flip(images, torch.rand(count, device=device) < 0.5)
    if config.rotation_degrees:
        degrees = (torch.rand(count, device=device) * 2 - 1) * config.rotation_degrees
        images = rotate(images, degrees)
    if config.crop_padding:
        offsets = torch.randint(0, 2 * config.crop_padding + 1, (2, count), device=device)
        images = crop(images, offsets[0], offsets[1], config.crop_padding)
    return to_unit_range(images)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirrors the images where `chosen` [N] is true, left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotates image i by `degrees[i]`, counter-clockwise, about its centre; nearest neighbour, black outside."""
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # The inverse map, output pixel -> input pixel, in coordinates of [-1, 1]; right for square images.
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)  # [N, 2, 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    rotated = F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return rotated.to(images.dtype)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Pads with black on all sides, then crops image i at (top[i], left[i]) to its original size."""
    height, width = images.shape[2:]
    padded = F.pad(images, (padding, padding, padding, padding))
    rows = top[:, None] + torch.arange(height, device=images.device)  # [N, H]
    columns = left[:, None] + torch.arange(width, device=images.device)  # [N, W]
    return pick(padded, rows, columns)


def pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of image i at `rows[i]` [N, H'] and `columns[i]` [N, W']: [N, C, H, W] -> [N, C, H', W']."""
    index = torch.arange(len(images), device=images.device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]  # [N, H', W', C]
    return picked.permute(0, 3, 1, 2)
