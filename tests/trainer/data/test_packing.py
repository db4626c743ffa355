"""Packing a folder of images at a resolution, in colour or grey, by the reading rules of a config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.trainer.data.datasets import load_dataset
from services.trainer.data.packing import Preprocessing
from tests.trainer.small import small_config

PLAIN = Preprocessing()


def write(path: Path, *colors: Any, mode: str = "RGB") -> None:
    """Images of 50 x 40 pixels, one of each colour."""
    path.mkdir(parents=True, exist_ok=True)
    for i, color in enumerate(colors):
        Image.new(mode, (50, 40), color).save(path / f"{i}.png")


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize(
    ("channels", "colors", "expected"),
    [
        (None, [(5, 5, 5), (6, 6, 6)], [[5], [6]]),
        (None, [(5, 5, 5), (6, 6, 7)], [[5, 5, 5], [6, 6, 7]]),
        (1, [(5, 5, 5), (255, 0, 0)], [[5], [76]]),
        (3, [(5, 5, 5), (6, 6, 6)], [[5, 5, 5], [6, 6, 6]]),
    ],
    ids=["grey by the data", "colour by the data", "grey by the config", "colour by the config"],
)
def test_images_have_one_channel_if_all_are_grey_or_the_config_says_so(
    tmp_path: Path, channels: Any, colors: list[Any], expected: list[list[int]], is_cached: bool
) -> None:
    write(tmp_path / "pets/train/cats", *colors)
    cache = tmp_path / "cache" if is_cached else None
    for _ in range(2):
        dataset = load_dataset(tmp_path, "pets", preprocessing=Preprocessing(16, channels), cache=cache)
        assert dataset.images.shape == (2, len(expected[0]), 16, 16)
        assert dataset.images[:, :, 3, 3].tolist() == expected
        assert dataset.images.amin((2, 3)).tolist() == dataset.images.amax((2, 3)).tolist()


def test_many_grey_images_are_reduced_to_one_channel_without_mixing_them_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more images than are copied at a time
    monkeypatch.setattr("services.trainer.data.cache._COPIED_ROWS", 4)
    write(tmp_path / "pets/train/cats", *range(11), mode="L")
    dataset = load_dataset(tmp_path, "pets", preprocessing=Preprocessing(8, None), cache=tmp_path / "cache")
    assert dataset.images.shape == (11, 1, 8, 8)
    assert dataset.images.amin((1, 2, 3)).tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]  # by name: 0, 1, 10, ...
    assert dataset.images.amax((1, 2, 3)).tolist() == dataset.images.amin((1, 2, 3)).tolist()


def test_each_way_of_reading_has_a_cache_of_its_own(tmp_path: Path) -> None:
    # Given an image that no crop leaves as it is
    write(tmp_path / "pets/train/cats", (1, 2, 3))
    ways = [replace(PLAIN, resolution=16), PLAIN, replace(PLAIN, crop="pad"), replace(PLAIN, background=(9, 9, 9))]
    decoded: list[int] = []
    corners = [
        load_dataset(
            tmp_path,
            "pets",
            preprocessing=preprocessing,
            cache=tmp_path / "cache",
            on_progress=lambda count, _: decoded.append(count),
        )
        .images[0, :, 0, 0]
        .tolist()
        for preprocessing in [*ways, *ways]
    ]
    # Then each way decodes it once, and keeps its own pixels
    assert corners == [[1, 2, 3], [1, 2, 3], [255, 255, 255], [1, 2, 3]] * 2
    assert len(decoded) == len(ways)


def test_a_config_says_how_images_are_cropped_and_what_is_behind_them(tmp_path: Path) -> None:
    # Given an image that is half transparent
    image = Image.new("RGBA", (64, 32), (10, 20, 30, 255))
    image.paste((0, 0, 0, 0), (32, 0, 64, 32))
    (tmp_path / "pets/train/cats").mkdir(parents=True)
    image.save(tmp_path / "pets/train/cats/1.png")
    preprocessing = Preprocessing.of(small_config(crop="pad", background="#0a0B0c"))
    assert (preprocessing.crop, preprocessing.background) == ("pad", (10, 11, 12))
    pixels = load_dataset(tmp_path, "pets", preprocessing=preprocessing).images[0]
    # Then it is 32 x 16 in the middle, and the background is around and behind it
    assert [pixels[:, y, x].tolist() for y, x in ((2, 2), (16, 5), (16, 25))] == [
        [10, 11, 12], [10, 20, 30], [10, 11, 12],
    ]  # fmt: skip


def test_cifar10_is_resized_and_made_grey_for_other_networks(cifar10_root: Path) -> None:
    colour = load_dataset(cifar10_root, "cifar10", "test")
    grey = load_dataset(cifar10_root, "cifar10", "test", preprocessing=Preprocessing(32, 1))
    red, green, blue = colour.images[:100].float().unbind(1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    assert grey.images.shape == (10_000, 1, 32, 32)
    assert (grey.images[:100, 0] - luminance).abs().max() <= 0.51
