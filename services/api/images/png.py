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
from PIL import Image, UnidentifiedImageError
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
    return enlarge(sheet.reshape(rows * height, columns * width, channels), scale)


def enlarge(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """[..., H, W, C] -> [..., scale * H, scale * W, C], by nearest neighbour."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2) if scale > 1 else images


def encode_png(pixels: NDArray[np.uint8], provenance: dict[str, Any], compress: str = "none") -> bytes:
    """[H, W, 3] -> PNG, by one of COMPRESSIONS. The same pixels and provenance give the same bytes."""
    return COMPRESSIONS[compress](pixels, json.dumps(provenance, sort_keys=True))


def encode_apng(frames: NDArray[np.uint8], provenance: dict[str, Any], frame_ms: int) -> bytes:
    """[N, H, W, 3] -> an animated PNG that begins anew at its end."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    # Each frame replaces the one before as a whole; left to itself, Pillow would drop those that are equal.
    first.save(
        buffer, "PNG", save_all=True, append_images=rest, duration=frame_ms, loop=0, blend=0,
        pnginfo=_text(json.dumps(provenance, sort_keys=True)),
    )  # fmt: skip
    return buffer.getvalue()


def read_provenance(png: bytes) -> dict[str, Any] | None:
    """What was written into the file, or None when it is not one of ours. Raises ValueError for what is no PNG."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            text = getattr(image, "text", {}).get(PROVENANCE_KEYWORD)
        provenance = json.loads(text) if text else None
    except UnidentifiedImageError:  # whose text names an object in memory
        raise ValueError("not a PNG") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a sound PNG: {error}") from error
    return provenance if isinstance(provenance, dict) else None


def read_frames(png: bytes, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """The pixels of a PNG, animated or not: [frames, H, W, 3].

    Raises ValueError for a damaged file, and for one of another shape than is told, before it is unpacked: a small file
    may claim a large part of the memory.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            count = getattr(image, "n_frames", 1)
            if shape is not None and (count, image.height, image.width) != shape[:3]:
                wanted = " x ".join(str(size) for size in (shape[0], shape[2], shape[1]))
                raise ValueError(f"the file is {count} x {image.width} x {image.height}, and this makes {wanted}")
            pixels = []
            for number in range(count):
                image.seek(number)
                pixels.append(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a sound PNG: {error}") from error
    return np.stack(pixels)


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
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=_text(text), optimize=True)
    return buffer.getvalue()


def _text(text: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(PROVENANCE_KEYWORD, text)
    return info


COMPRESSIONS: dict[str, Callable[[NDArray[np.uint8], str], bytes]] = {"none": _stored, "fast": _quick, "small": _small}


def _assemble(width: int, height: int, data: bytes, text: str) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, *_RGB8)
    # keyword, uncompressed, no method, no language, no translated keyword; then the text as UTF-8
    itxt = PROVENANCE_KEYWORD.encode() + b"\0\0\0\0\0" + text.encode()
    chunks = ((b"IHDR", header), (b"iTXt", itxt), (b"IDAT", data), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
