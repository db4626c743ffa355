"""Turns the bytes of an image file into the pixels that people see on a screen: upright, opaque, in sRGB."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

Colour = tuple[int, int, int]  # red, green and blue, 0 to 255
WHITE: Colour = (255, 255, 255)

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485  # Pillow's own limit: a file of a few kilobytes can claim any size and fill the memory
MAX_FILE_BYTES = 1 << 30

_UPRIGHT = {  # by the value of the EXIF tag Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_NOCACHE = ImageCms.Flags.NOCACHE  # a transform with a cache must not be used by several threads

pillow_heif.register_heif_opener()


class BadImage(Exception):
    """A file is damaged, or holds pixels that Kiln does not read. The message is the reason, without the name."""


@dataclass(frozen=True)
class DecodedImage:
    """An image of mode L or RGB, and what its owner should know about the file."""

    image: Image.Image
    notes: tuple[str, ...]


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises BadImage if it is empty or too large, OSError if it cannot be read."""
    size = path.stat().st_size
    if size == 0:
        raise BadImage("the file is empty")
    if size > MAX_FILE_BYTES:
        raise BadImage(f"the file has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    return path.read_bytes()


def decode(data: bytes, background: Colour = WHITE) -> DecodedImage:
    """Decodes a file's bytes at full size. `background` shows through transparent parts. Raises BadImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            notes = _frames_note(image)
            image.load()
            upright, orientation_note = _upright(image)
            return _decoded(_to_8_bits(upright, image.format), background, (*notes, *orientation_note))
    except (MemoryError, BadImage):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {MAX_PIXELS:,} pixels; make the image smaller") from None
    except UnidentifiedImageError:
        raise BadImage("not an image in a format that Kiln reads, or its header is damaged") from None
    except Exception as error:  # for damaged bytes Pillow's decoders raise many types, SyntaxError among them
        raise BadImage(f"damaged: {error}") from error


def _frames_note(image: Image.Image) -> tuple[str, ...]:
    # A phone's photo of type MPO has a second picture for depth or 3D.
    if image.format == "MPO" or getattr(image, "n_frames", 1) == 1:
        return ()
    kind = "several pages" if image.format == "TIFF" else "animated"
    return (f"{kind}: the first image of the file is read",)


def _upright(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The image as it was when the photo was taken, by its EXIF orientation."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the parser raises many types; other programs show such images as they are stored
        return image, ("damaged EXIF data: the image is read as it is stored",)
    transpose = _UPRIGHT.get(orientation or 1)
    return (image if transpose is None else image.transpose(transpose)), ()


def _to_8_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Scales 16-bit integers, and floats in [0, 1], to 8 bits. Raises BadImage for other ranges."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PPM"):
        values = np.asarray(image).astype(np.uint32)
        return _like(image, ((values + 128) // 257).astype(np.uint8))
    if image.mode == "I":
        raise BadImage("pixels are integers of 32 bits, whose range is unknown; convert the image to 8 or 16 bits")
    if image.mode == "F":
        floats = np.asarray(image)
        low, high = float(floats.min()), float(floats.max())
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise BadImage(f"pixels are floats from {low:g} to {high:g}; Kiln reads floats in [0, 1]")
        return _like(image, np.rint(floats * 255).astype(np.uint8))
    return image


def _like(image: Image.Image, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Image.Image:
    grey = Image.fromarray(pixels)
    grey.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return grey


def _decoded(image: Image.Image, background: Colour, notes: tuple[str, ...]) -> DecodedImage:
    """Converts 8-bit pixels of any mode to sRGB, then lays them over the background."""
    profile = image.info.get("icc_profile")
    image = _in_plain_mode(image)
    if profile:
        try:
            image = _to_srgb(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes = (*notes, "unusable colour profile: the colours are read as sRGB")
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return DecodedImage(_opaque(image, background), notes)


def _in_plain_mode(image: Image.Image) -> Image.Image:
    """The image in mode L, LA, RGB, RGBA or CMYK. Raises ValueError for a mode that Pillow cannot convert."""
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in {"1", "L", "LA", "La"} else "RGBA")
    if image.mode in {"L", "RGB", "CMYK"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts the colours from an ICC profile. Raises PyCMSError, OSError or ValueError for an unusable profile."""
    alpha = image.getchannel("A") if image.mode.endswith("A") else None
    colours = image if alpha is None else image.convert(image.mode[:-1])
    transform = _transform(profile, colours.mode)
    if transform is None:
        return image
    converted = transform.apply(colours)
    if colours.mode == "L":
        converted = converted.convert("L")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=64)  # the photos of one camera share a profile
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB, or None if the profile is sRGB."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if ImageCms.getProfileDescription(source).strip().startswith("sRGB"):
        return None
    flags = _NOCACHE | ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(source, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)


def _opaque(image: Image.Image, background: Colour) -> Image.Image:
    """Lays the image over a plain background, in the stored values, as browsers do."""
    if not image.mode.endswith("A"):
        return image
    below = Image.new("RGBA", image.size, (*background, 255))
    opaque = Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")
    is_grey = image.mode == "LA" and len(set(background)) == 1
    return opaque.convert("L") if is_grey else opaque
