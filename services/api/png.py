"""Images to PNG: a sheet of tiles, with its provenance in an iTXt chunk.

The format is simple where nothing is compressed, and then far quicker to write than with Pillow's defaults. Files that
must be small are Pillow's business, as is reading any.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROVENANCE_KEYWORD = "kiln"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = (8, 2, 0, 0, 0)  # bits, colour type, compression, filter method, no interlace
_UP = 2  # the filter that takes the difference from the row above


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


def encode_png(pixels: NDArray[np.uint8], provenance: dict[str, Any], compress: str = "none") -> bytes:
    """[H, W, 3] -> PNG, by one of COMPRESSIONS. The same pixels and provenance give the same bytes."""
    return COMPRESSIONS[compress](pixels, json.dumps(provenance, sort_keys=True))


def read_provenance(png: bytes) -> dict[str, Any] | None:
    """What `encode_png` wrote into the file, or None when it is not one of ours."""
    with Image.open(io.BytesIO(png)) as image:
        text = getattr(image, "text", {}).get(PROVENANCE_KEYWORD)
    return json.loads(text) if text else None


def _stored(pixels: NDArray[np.uint8], text: str) -> bytes:
    """Uncompressed blocks, no filters."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, 3 * width)
    return _assemble(width, height, zlib.compress(rows.data, 0), text)


def _quick(pixels: NDArray[np.uint8], text: str) -> bytes:
    """Differences from the row above, deflated at the lowest level."""
    height, width, _ = pixels.shape
    flat = pixels.reshape(height, 3 * width)
    rows = np.full((height, 1 + 3 * width), _UP, dtype=np.uint8)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])  # modulo 256, as the format wants it
    return _assemble(width, height, zlib.compress(rows.data, 1), text)


def _small(pixels: NDArray[np.uint8], text: str) -> bytes:
    """Pillow at its best: a filter for each row, deflated at the highest level."""
    info = PngInfo()
    info.add_itxt(PROVENANCE_KEYWORD, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


COMPRESSIONS: dict[str, Callable[[NDArray[np.uint8], str], bytes]] = {"none": _stored, "fast": _quick, "small": _small}


def _assemble(width: int, height: int, data: bytes, text: str) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, *_RGB8)
    # keyword, uncompressed, no method, no language, no translated keyword; then the text as UTF-8
    itxt = PROVENANCE_KEYWORD.encode() + b"\0\0\0\0\0" + text.encode()
    chunks = ((b"IHDR", header), (b"iTXt", itxt), (b"IDAT", data), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
