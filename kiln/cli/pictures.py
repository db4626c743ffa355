"""Draws images in the terminal (two pixels per character) and metrics as curves one character high."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from rich.text import Text

COLUMNS = 80  # the largest width, in characters, which is also the width in pixels
BARS, CURVE_POINTS = "▁▂▃▄▅▆▇█", 40


def picture(png: bytes) -> Text:
    """The image, shrunk to fit the terminal."""
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    if image.width > COLUMNS:
        image = image.resize((COLUMNS, max(2, image.height * COLUMNS // image.width)))
    return half_blocks(image)


def half_blocks(image: Image.Image) -> Text:
    """An RGB image as text: the upper half block in one pixel's colour, on the background of the pixel below."""
    pixels = image.load()
    text = Text(no_wrap=True)
    for y in range(0, image.height - 1, 2):
        for x in range(image.width):
            upper, lower = (_rgb(pixels[x, row]) for row in (y, y + 1))  # type: ignore[index]
            text.append("▀", style=f"{upper} on {lower}")
        text.append("\n")
    return text


def curve(values: Sequence[float]) -> str:
    """The latest values, scaled between their minimum and their maximum."""
    latest = list(values)[-CURVE_POINTS:]
    if len(latest) < 2:
        return ""
    low, high = min(latest), max(latest)
    heights = ((value - low) / (high - low) if high > low else 0.0 for value in latest)
    return "".join(BARS[round(height * (len(BARS) - 1))] for height in heights)


def _rgb(pixel: Any) -> str:
    return f"rgb({pixel[0]},{pixel[1]},{pixel[2]})"
