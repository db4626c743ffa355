"""Decoding image files: each rule of docs/reference/data-sets.md, with the pixels that it must give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.datasets.decode import MAX_PIXELS, BadImage, Colour, DecodedImage, decode, read_bytes
from tests.shared.datasets.images import (
    BLUE,
    GREEN,
    RED,
    encoded,
    frames,
    noise,
    png_of_16_bits,
    png_that_claims,
    solid,
    swapped_profile,
    with_orientation,
)


def pixel(decoded: DecodedImage, x: int = 0, y: int = 0) -> tuple[int, ...] | int:
    value = decoded.image.getpixel((x, y))
    assert value is not None
    return value if isinstance(value, tuple) else int(value)


def near(color: tuple[int, ...], tolerance: int = 3) -> object:
    return pytest.approx(color, abs=tolerance)


# --- orientation --------------------------------------------------------------------------------------------------

# What a camera stores for each orientation of a photo whose rows are ABC and DEF.
STORED = {1: "ABC DEF", 2: "CBA FED", 3: "FED CBA", 4: "DEF ABC", 5: "AD BE CF", 6: "CF BE AD", 7: "FC EB DA",
          8: "DA EB FC"}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
def test_a_photo_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    rows = STORED[orientation].split()
    stored = Image.fromarray(np.array([[ord(letter) for letter in row] for row in rows], dtype=np.uint8))
    decoded = decode(with_orientation(stored, orientation)).image
    assert ["".join(map(chr, row)) for row in np.asarray(decoded).tolist()] == ["ABC", "DEF"]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("file_format", "exif"), [("JPEG", b"Exif\0\0II*\0\xff\xff\xff\x7f"), ("PNG", b"no EXIF")])
def test_damaged_exif_data_leaves_the_image_as_it_is_stored(file_format: str, exif: bytes) -> None:
    assert pixel(decode(encoded(solid(RED), file_format, exif=exif))) == near(RED)


# --- colours ------------------------------------------------------------------------------------------------------


def test_colours_are_converted_from_the_profile_of_the_file_to_srgb() -> None:
    # Given a profile whose red is sRGB's blue
    decoded = decode(encoded(solid(RED), icc_profile=swapped_profile()))
    assert (pixel(decoded), decoded.notes) == (near(BLUE), ())


def test_a_profile_does_not_touch_transparency() -> None:
    half = solid((255, 0, 0, 0), mode="RGBA")
    half.paste((255, 0, 0, 255), (0, 0, 16, 32))
    decoded = decode(encoded(half, icc_profile=swapped_profile()), background=GREEN)
    assert (pixel(decoded, 0), pixel(decoded, 31)) == (near(BLUE), GREEN)


def test_an_srgb_profile_changes_no_pixel() -> None:
    from PIL import ImageCms

    image = noise()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(decode(encoded(image, icc_profile=profile)).image), np.asarray(image))


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:200]])
def test_an_unusable_profile_is_noted_and_ignored(profile: bytes) -> None:
    decoded = decode(encoded(solid(RED), icc_profile=profile))
    assert pixel(decoded) == RED
    assert decoded.notes == ("unusable colour profile: the colours are read as sRGB",)


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    decoded = decode(encoded(solid((0, 255, 255, 0), mode="CMYK"), "JPEG"))
    assert pixel(decoded) == near(RED)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (solid(77, mode="L"), 77),
        (solid(1, mode="1"), 255),
        (solid((77, 255), mode="LA"), 77),
        (solid(RED).convert("P"), RED),
        (solid(RED).quantize(4), RED),
    ],
    ids=["grey", "one bit", "grey with alpha", "web palette", "palette"],
)
def test_grey_and_palette_images_keep_their_colours(image: Image.Image, expected: int | Colour) -> None:
    assert pixel(decode(encoded(image))) == expected


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF", "HEIF"])
def test_every_format_is_read(file_format: str) -> None:
    decoded = decode(encoded(solid((200, 40, 40), (64, 48)), file_format))
    assert decoded.image.size == (64, 48)
    assert pixel(decoded, 20, 20) == near((200, 40, 40))
    assert decoded.notes == ()


# --- depth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_to_8(file_format: str) -> None:
    # Given grey values whose clipping to 8 bits would be white but for the first two
    values = np.array([[0, 129, 257, 25_700, 40_000, 65_535]], dtype=np.uint16)
    decoded = decode(encoded(Image.fromarray(values), file_format))
    # Then they are divided by 257 and rounded
    assert np.asarray(decoded.image).tolist() == [[0, 1, 1, 100, 156, 255]]


def test_16_bits_per_colour_are_scaled_to_8() -> None:
    decoded = decode(png_of_16_bits(np.array([[[65_535, 25_700, 0]]], dtype=np.uint16)))
    assert pixel(decoded) == (255, 100, 0)


def test_floats_between_0_and_1_are_scaled() -> None:
    values = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32)
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF")).image).tolist() == [[0, 64, 128, 255]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [([-3, 120], r"floats from -3 to 120; Kiln reads floats in \[0, 1\]"), ([0, np.nan], "floats from")],
)
def test_other_floats_are_refused_by_their_range(values: list[float], reason: str) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    with pytest.raises(BadImage, match=reason):
        decode(encoded(image, "TIFF"))


def test_32_bit_integers_are_refused() -> None:
    image = Image.fromarray(np.array([[0, 70_000]], dtype=np.int32))
    with pytest.raises(BadImage, match="integers of 32 bits, whose range is unknown; convert"):
        decode(encoded(image, "TIFF"))


# --- transparency -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [(255, 255, 255), GREEN])
def test_the_background_shows_through_transparent_pixels(background: Colour) -> None:
    # Given a transparent pixel whose invisible colour is black, a half transparent and an opaque one
    image = Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 51], [1, 2, 3, 255]]], dtype=np.uint8))
    decoded = decode(encoded(image), background)
    mixed = tuple(round(0.2 * colour + 0.8 * behind) for colour, behind in zip(RED, background, strict=True))
    assert np.asarray(decoded.image).tolist() == [[list(background), list(mixed), [1, 2, 3]]]


def test_a_transparent_grey_image_stays_grey_on_a_grey_background() -> None:
    image = solid((0, 0), mode="LA")
    assert pixel(decode(encoded(image))) == 255
    assert pixel(decode(encoded(image), GREEN)) == GREEN


def test_a_transparent_colour_of_a_palette_shows_the_background() -> None:
    image = solid(RED).quantize(4)
    assert pixel(decode(encoded(image, "GIF", transparency=0))) == (255, 255, 255)


# --- several images in one file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "note"), [("GIF", "animated"), ("PNG", "animated"), ("WEBP", "animated"), ("TIFF", "several pages")]
)
def test_the_first_image_of_a_file_with_several_is_read_and_noted(file_format: str, note: str) -> None:
    decoded = decode(encoded(solid(GREEN), file_format, **frames(RED, BLUE)))
    assert pixel(decoded) == near(GREEN)
    assert decoded.notes == (f"{note}: the first image of the file is read",)


def test_the_second_picture_of_a_phones_photo_is_not_an_animation() -> None:
    decoded = decode(encoded(solid(GREEN), "MPO", save_all=True, append_images=[solid(RED)]))
    assert (pixel(decoded), decoded.notes) == (near(GREEN), ())


# --- files that cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><title>404</title>", "not an image in a format that Kiln reads"),
        (b"%PDF-1.7", "not an image in a format that Kiln reads"),
        (encoded(noise(), "JPEG")[:800], "damaged: image file is truncated"),
        (encoded(noise())[:500], "damaged"),
        (encoded(solid(RED), "HEIF")[:200], "damaged"),
        (png_that_claims(30_000, 30_000), f"more than {MAX_PIXELS:,} pixels; make the image smaller"),
        (png_that_claims(10_000, 9_000), f"more than {MAX_PIXELS:,} pixels"),
    ],
    ids=["web page", "PDF", "half a JPEG", "half a PNG", "half a HEIC", "a bomb", "a small bomb"],
)
def test_a_file_that_is_no_readable_image_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_where_pillow_only_warns() -> None:
    with pytest.raises(BadImage, match=f"more than {MAX_PIXELS:,} pixels"):
        decode(png_that_claims(10_000, 9_000))


def test_an_empty_or_huge_file_is_refused_unread(tmp_path: Path) -> None:
    empty, huge = tmp_path / "empty.png", tmp_path / "huge.png"
    empty.touch()
    with huge.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(BadImage, match="the file is empty"):
        read_bytes(empty)
    with pytest.raises(BadImage, match="2,147,483,648 bytes; the limit is 1,073,741,824"):
        read_bytes(huge)
