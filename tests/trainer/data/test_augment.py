"""Batched augmentation does to each image what torchvision does to one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from services.trainer.data.augment import augment, crop, flip, rotate, to_bytes, to_unit_range
from tests.trainer.small import random_images, small_config

OFF: dict[str, Any] = {"flip": False, "rotation_degrees": 0.0, "crop_padding": 0}
IMAGES = random_images(200).images


def test_flip_mirrors_the_chosen_images_as_torchvision_does() -> None:
    chosen = torch.arange(len(IMAGES)) % 3 == 0
    expected = [reference.horizontal_flip(image) if i % 3 == 0 else image for i, image in enumerate(IMAGES)]
    assert torch.equal(flip(IMAGES, chosen), torch.stack(expected))


@pytest.mark.parametrize("padding", [1, 4])
def test_crop_pads_and_cuts_as_torchvision_does(padding: int) -> None:
    top, left = torch.arange(len(IMAGES)) % (2 * padding + 1), torch.arange(len(IMAGES)) // 5 % (2 * padding + 1)
    expected = [
        reference.crop(reference.pad(image, [padding] * 4), int(t), int(x), 32, 32)
        for image, t, x in zip(IMAGES, top, left, strict=True)
    ]
    assert torch.equal(crop(IMAGES, top, left, padding), torch.stack(expected))


def test_rotate_by_round_angles_is_torchvision_pixel_for_pixel() -> None:
    degrees = torch.tensor([0.0, 90.0, 180.0, -90.0, 45.0, 30.0, -60.0, 10.0, -10.0, 5.0, 1.0])
    assert torch.equal(rotate(IMAGES[: len(degrees)], degrees), rotated_one_by_one(IMAGES, degrees))


def test_rotate_by_any_angle_equals_torchvision_except_for_rounding_ties() -> None:
    # Of four million pixels, three lie so close to the border between two pixels that float32 rounds differently.
    images = IMAGES.repeat(5, 1, 1, 1)
    degrees = (torch.rand(len(images), generator=torch.Generator().manual_seed(0)) * 2 - 1) * 180
    different = (rotate(images, degrees) != rotated_one_by_one(images, degrees)).any(1).float().mean().item()
    assert different <= 1e-5
    # The comparison fails for the wrong direction of rotation.
    assert (rotate(images, -degrees) != rotate(images, degrees)).any(1).float().mean().item() > 0.5


def test_rotate_turns_counter_clockwise_and_fills_with_black() -> None:
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    white[:, :, :16, 16:] = 128  # the upper right quarter is grey
    quarter_turn, eighth_turn = rotate(white, torch.tensor([90.0])), rotate(white, torch.tensor([45.0]))
    assert (quarter_turn[:, :, :16, :16] == 128).all()  # and is now the upper left one
    assert (quarter_turn == 128).sum() == (white == 128).sum()
    assert [eighth_turn[0, 0, y, x].item() for y in (0, 31) for x in (0, 31)] == [0, 0, 0, 0]


def test_every_byte_survives_scaling_to_the_unit_range_and_back() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = to_unit_range(values)
    assert floats.dtype == torch.float32
    assert (floats.min().item(), floats.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_bytes(floats), values)


def test_bytes_are_rounded_to_nearest_and_clamped() -> None:
    steps = torch.tensor([-3.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1.0, 1.5])
    assert to_bytes(steps).tolist() == [0, 0, 0, 1, 255, 255]


def test_augment_with_everything_off_changes_no_pixel_and_no_random_state() -> None:
    before = torch.get_rng_state()
    assert torch.equal(to_bytes(augment(IMAGES, small_config(**OFF))), IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


def test_augment_flips_about_half_of_the_images_and_leaves_the_rest() -> None:
    # Given ten thousand images whose left half is white
    torch.manual_seed(0)
    images = torch.zeros(10_000, 3, 32, 32, dtype=torch.uint8)
    images[:, :, :, :16] = 255
    # When they are flipped at random
    flipped = augment(images, small_config(**OFF | {"flip": True}))
    # Then each has one white half, on the right in half of them (within four standard deviations)
    is_right = flipped[:, 0, 0, 31] == 1
    expected = torch.where(is_right[:, None, None, None], images.flip(3), images)
    assert torch.equal(to_bytes(flipped), expected)
    assert is_right.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_augment_crops_at_every_offset_about_equally_often() -> None:
    # Given images whose pixels contain their position
    torch.manual_seed(0)
    rows = torch.arange(32, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(32, 32), rows[None, :].expand(32, 32), torch.zeros(32, 32).byte()])
    # When ten thousand of them are padded by 4 and cropped at random
    cropped = to_bytes(augment(image.expand(10_000, 3, 32, 32), small_config(**OFF | {"crop_padding": 4})))
    # Then the pixel in the middle comes from each of 9 x 9 positions about equally often (within five deviations)
    shifts = cropped[:, :2, 16, 16].int() - 16
    counts = torch.bincount((shifts[:, 0] + 4) * 9 + shifts[:, 1] + 4, minlength=81)
    assert len(counts) == 81
    assert (counts - 10_000 / 81).abs().max().item() < 5 * math.sqrt(10_000 / 81)


def test_augment_rotates_evenly_within_the_given_angle_both_ways() -> None:
    # Given images with a spot on the right, 12 pixels from the centre
    torch.manual_seed(0)
    images = torch.zeros(4000, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 14:18, 26:30] = 255
    # When they are rotated at random, by up to 20 degrees
    rotated = augment(images, small_config(**OFF | {"rotation_degrees": 20.0}))
    # Then the spot is at angles from -20 to 20; at this radius, pixels are about 2 degrees apart
    angles = spot_angles(rotated[:, 0] + 1)
    assert -22 < angles.min().item() < -18
    assert 18 < angles.max().item() < 22
    assert angles.mean().item() == pytest.approx(0, abs=0.8)
    assert angles.std().item() == pytest.approx(40 / math.sqrt(12), rel=0.05)


def rotated_one_by_one(images: Tensor, degrees: Tensor) -> Tensor:
    pairs = zip(images, degrees.tolist(), strict=False)
    return torch.stack([reference.rotate(i, d, interpolation=InterpolationMode.NEAREST) for i, d in pairs])


def spot_angles(images: Tensor) -> Tensor:
    """Direction of the centre of mass of each image [N, H, W], in degrees, counter-clockwise from the right."""
    at = torch.arange(32) - 15.5
    mass = images.sum((1, 2))
    x, y = (images.sum(1) @ at) / mass, -(images.sum(2) @ at) / mass
    return torch.rad2deg(torch.atan2(y, x))
