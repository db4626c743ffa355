"""Resizes and crops decoded images to the pixels that networks are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.configs.reading import Crop
from shared.datasets.decode import WHITE, Colour, decode, read_bytes

Channels = Literal[1, 3]

# Antialiased, and with less ringing than Lanczos: the clean resizing of Parmar et al. 2022, arXiv:2104.11222.
RESAMPLING = Image.Resampling.BICUBIC


def read_image(
    path: Path, resolution: int, channels: Channels = 3, crop: Crop = "centre", background: Colour = WHITE
) -> NDArray[np.uint8]:
    """uint8 [channels, resolution, resolution] of an image file.

    Raises BadImage if the file is damaged, or is no image that Kiln reads; OSError if it cannot be read at all.
    """
    return to_pixels(decode(read_bytes(path), background).image, resolution, channels, crop, background)


def to_pixels(
    image: Image.Image, resolution: int, channels: Channels = 3, crop: Crop = "centre", background: Colour = WHITE
) -> NDArray[np.uint8]:
    """uint8 [channels, resolution, resolution] of an image of mode L or RGB.

    `crop` makes it square. centre: the largest square in the middle. resize: width and height are scaled separately.
    pad: the whole image, with `background` on two sides.
    """
    image = image.convert("L" if channels == 1 else "RGB")
    square = (resolution, resolution)
    if crop == "pad":
        pixels = _padded(image, resolution, background)
    elif crop == "resize":
        pixels = image.resize(square, RESAMPLING)
    else:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        pixels = image.resize(square, RESAMPLING, box=(left, top, left + side, top + side))
    array = np.asarray(pixels)  # [H, W] or [H, W, 3]
    return np.ascontiguousarray(array.reshape(resolution, resolution, channels).transpose(2, 0, 1))


def is_grey(image: Image.Image) -> bool:
    """Whether red, green and blue are equal in every pixel."""
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    # Every 64th row shows of most colour images that they are in colour.
    return all(bool((rows[..., :1] == rows).all()) for rows in (pixels[::64], pixels))


def _padded(image: Image.Image, resolution: int, background: Colour) -> Image.Image:
    scale = resolution / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", (resolution, resolution), background).convert(image.mode)
    canvas.paste(image.resize((width, height), RESAMPLING), ((resolution - width) // 2, (resolution - height) // 2))
    return canvas
