"""Making images square and small: antialiased, with each crop, in colour and in grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.datasets.pixels import is_grey, read_image, to_pixels
from tests.shared.datasets.images import BLUE, GREEN, RED, encoded, noise, solid, write


@pytest.mark.parametrize("name", ["photo.png", "photo.txt", "photo", "photo.jpg.download"])
def test_a_file_is_read_by_its_content_and_not_by_its_ending(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, encoded(solid(RED), "BMP"))
    assert read_image(path, 32)[:, 0, 0].tolist() == list(RED)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_downscaling_averages_instead_of_picking_pixels(resolution: int) -> None:
    # Given a pattern of black and white pixels that has no grey
    pattern = np.indices((512, 512)).sum(0) % 2 * 255
    pixels = to_pixels(Image.fromarray(pattern.astype(np.uint8)), resolution)
    # Then every pixel of the small image is their mean, but for the border, which has fewer neighbours
    inner = pixels[:, 2:-2, 2:-2].astype(int)
    assert inner.shape == (3, resolution - 4, resolution - 4)
    assert np.abs(inner - 127.5).max() <= 1.5


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 32), (33, 32), (32, 33), (32, 32)])
def test_the_centre_of_an_image_of_the_right_size_is_unchanged(height: int, width: int) -> None:
    image = noise(width, height)
    top, left = (height - 32) // 2, (width - 32) // 2
    expected = np.asarray(image)[top : top + 32, left : left + 32].transpose(2, 0, 1)
    assert np.array_equal(to_pixels(image, 32), expected)


def striped() -> Image.Image:
    """96 x 32 pixels: a red, a green and a blue square."""
    image = solid(GREEN, (96, 32))
    image.paste(RED, (0, 0, 32, 32))
    image.paste(BLUE, (64, 0, 96, 32))
    return image


def test_the_centre_is_the_largest_square_in_the_middle() -> None:
    pixels = to_pixels(striped(), 32, crop="centre")
    assert set(map(tuple, pixels.reshape(3, -1).T.tolist())) == {GREEN}


def test_resizing_keeps_the_whole_image_and_not_its_proportions() -> None:
    pixels = to_pixels(striped(), 32, crop="resize")
    assert [pixels[:, row, column].tolist() for row in (0, 31) for column in (0, 15, 31)] == [
        *map(list, (RED, GREEN, BLUE)), *map(list, (RED, GREEN, BLUE)),
    ]  # fmt: skip


@pytest.mark.parametrize(("channels", "colours"), [(3, [[9, 8, 7], [*RED], [*BLUE]]), (1, [[8], [76], [29]])])
def test_padding_keeps_the_whole_image_on_the_background(channels: int, colours: list[list[int]]) -> None:
    pixels = to_pixels(striped(), 32, 3 if channels == 3 else 1, crop="pad", background=(9, 8, 7))
    background, red, blue = colours
    # The image is 32 x 11 pixels now, and 10 rows are above it.
    assert [pixels[:, row, 0].tolist() for row in (0, 9, 21, 31)] == [background] * 4
    assert [pixels[:, row, 0].tolist() for row in (12, 19)] == [red] * 2
    assert pixels[:, 15, 31].tolist() == blue


def test_a_line_of_one_pixel_can_be_padded() -> None:
    assert to_pixels(solid(RED, (500, 1)), 32, crop="pad")[:, 15, 0].tolist() == list(RED)


def test_colours_become_grey_by_their_luminance() -> None:
    assert [to_pixels(solid(color), 32, 1)[0, 0, 0] for color in (RED, GREEN, BLUE)] == [76, 150, 29]


def test_grey_becomes_three_equal_channels() -> None:
    pixels = to_pixels(solid(77, mode="L"), 32, 3)
    assert (pixels == 77).all()


def test_transparent_pixels_leave_no_dark_edge_when_they_are_resized(tmp_path: Path) -> None:
    # Given white pixels beside transparent ones whose invisible colour is black
    image = solid((0, 0, 0, 0), (64, 64), "RGBA")
    image.paste((255, 255, 255, 255), (0, 0, 31, 64))
    path = write(tmp_path / "shape.png", image)
    # Then on white, everything is white at half the size
    assert (read_image(path, 32) == 255).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (solid(5, mode="L"), True),
        (solid((5, 5, 5), (200, 200)), True),
        (solid((5, 5, 6), (200, 200)), False),
    ],
)
def test_an_image_is_grey_if_its_channels_are_equal(image: Image.Image, expected: bool) -> None:
    assert is_grey(image) is expected


def test_a_single_coloured_pixel_makes_an_image_coloured() -> None:
    image = solid((5, 5, 5), (200, 200))
    image.putpixel((130, 77), (5, 5, 6))
    assert not is_grey(image)
