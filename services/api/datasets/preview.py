"""Draws the preview of a data set: a row of images for each class, with the name of the class."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from shared.datasets.decode import BadImage, decode, read_bytes
from shared.datasets.layouts import ImageFile, Layout
from shared.errors import escape

COLUMNS, MAX_ROWS = 10, 24
TILE, GAP = 64, 2  # pixels
LABEL_WIDTH, MARGIN = 128, 8
PAPER, INK = "#ffffff", "#1d1d1f"
TRIED = 3 * COLUMNS  # files of a class, because some may be damaged


def draw_preview(layout: Layout) -> bytes:
    """A PNG with up to MAX_ROWS classes and COLUMNS training images of each. Damaged files are left out."""
    classes = layout.classes[:MAX_ROWS]
    pitch = TILE + GAP
    sheet = Image.new("RGB", (LABEL_WIDTH + COLUMNS * pitch, len(classes) * pitch), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for row, name in enumerate(classes):
        draw.text((MARGIN, row * pitch + TILE // 2), _shortened(name, font), INK, font, anchor="lm")
        for column, tile in enumerate(_tiles(layout, row)):
            sheet.paste(tile, (LABEL_WIDTH + column * pitch, row * pitch))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _tiles(layout: Layout, label: int) -> Iterator[Image.Image]:
    files = [file for file in layout.of_split("train") if file.label == label]
    count = 0
    for file in _spread(files):
        try:
            image = decode(read_bytes(layout.folder / file.name)).image
        except (BadImage, OSError):
            continue
        yield ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
        count += 1
        if count == COLUMNS:
            return


def _spread(files: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """At most TRIED files at equal distances: neighbours in a folder are often photographs of the same thing."""
    return files[:: max(1, len(files) // TRIED)][:TRIED]


def _shortened(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    name = escape(name)
    while len(name) > 1 and font.getlength(name) > LABEL_WIDTH - 2 * MARGIN:
        name = name[:-2].rstrip("…") + "…"
    return name
