"""Images to PNG: a sheet of tiles, with its provenance in an iTXt chunk."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROVENANCE_KEYWORD = "kiln"


def tile(images: NDArray[np.uint8], columns: int | None = None, scale: int = 1) -> NDArray[np.uint8]:
    """[N, H, W, 3] -> one sheet, row by row, `ceil(sqrt(N))` columns unless told; what stays empty is black.

    `scale` repeats each pixel so many times in both directions.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else sheet


def encode_png(pixels: NDArray[np.uint8], provenance: dict[str, Any]) -> bytes:
    """[H, W, 3] -> PNG. The same pixels and provenance give the same bytes."""
    info = PngInfo()
    info.add_itxt(PROVENANCE_KEYWORD, json.dumps(provenance, sort_keys=True))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def read_provenance(png: bytes) -> dict[str, Any] | None:
    """What `encode_png` wrote into the file, or None when it is not one of ours."""
    with Image.open(io.BytesIO(png)) as image:
        text = getattr(image, "text", {}).get(PROVENANCE_KEYWORD)
    return json.loads(text) if text else None
