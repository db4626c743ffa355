"""Writes and reads PNG files: a grid of tiles, with its provenance in an iTXt chunk.

Uncompressed files are simple, and this module writes them far faster than Pillow. Pillow writes the smallest files and
decodes pixels.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROVENANCE_KEYWORD = "kiln"
# Keyword; not compressed; no method, language or translated keyword. The text follows in UTF-8.
_ITXT_HEAD = PROVENANCE_KEYWORD.encode() + b"\0\0\0\0\0"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2}  # channels -> grey, RGB
_UP = 2  # the filter that takes the difference from the row above


def tile(images: NDArray[np.uint8], columns: int | None = None, scale: int = 1) -> NDArray[np.uint8]:
    """[N, H, W, C] -> one grid, row by row, of `ceil(sqrt(N))` columns by default. Empty tiles are black.

    `scale` enlarges each pixel to scale x scale pixels.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, height, width, channels), dtype=np.uint8)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return enlarge(grid.reshape(rows * height, columns * width, channels), scale)


def enlarge(images: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """[..., H, W, C] -> [..., scale * H, scale * W, C], by nearest neighbour."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2) if scale > 1 else images


def encode_png(pixels: NDArray[np.uint8], provenance: dict[str, Any], compress: str = "none") -> bytes:
    """[H, W, C], grey or RGB -> PNG, by one of COMPRESSIONS. The same pixels and provenance give the same bytes."""
    return COMPRESSIONS[compress](pixels, json.dumps(provenance, sort_keys=True))


def encode_apng(frames: NDArray[np.uint8], provenance: dict[str, Any], frame_ms: int) -> bytes:
    """[N, H, W, C] -> an animated PNG that loops."""
    first, *rest = (_image(frame) for frame in frames)
    buffer = io.BytesIO()
    # `blend=0`: each frame replaces the one before. By default Pillow drops frames that are equal.
    first.save(
        buffer, "PNG", save_all=True, append_images=rest, duration=frame_ms, loop=0, blend=0,
        pnginfo=_text(json.dumps(provenance, sort_keys=True)),
    )  # fmt: skip
    return buffer.getvalue()


def read_provenance(png: bytes) -> dict[str, Any] | None:
    """The provenance in the file, or None when Kiln did not write one. Decodes no pixels.

    Raises ValueError for anything but a PNG.
    """
    for name, content in _chunks(png):
        if name == b"iTXt" and content.startswith(_ITXT_HEAD):
            try:
                provenance = json.loads(content[len(_ITXT_HEAD) :])
            except ValueError:  # not UTF-8, or not JSON
                return None
            return provenance if isinstance(provenance, dict) else None
    return None


def read_size(png: bytes) -> tuple[int, int, int]:
    """(frames, height, width) that the file claims. Decodes no pixels. Raises ValueError for anything but a PNG."""
    frames, size = 1, None
    for name, content in _chunks(png):
        if name == b"IHDR" and len(content) == 13:
            size = struct.unpack(">II", content[:8])
        elif name == b"acTL" and len(content) == 8:
            (frames,) = struct.unpack(">I", content[:4])
    if size is None:
        raise ValueError("not a PNG: it has no header")
    return frames, size[1], size[0]


def read_frames(png: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pixels of a PNG, animated or not: [frames, H, W, C]; C is that of `shape`, or else 1 for a grey file.

    Raises ValueError for a damaged file, and, before any pixel is decoded, for another shape than the expected one: a
    small file may claim a large part of the memory.
    """
    if (size := read_size(png)) != shape[:3]:
        claimed, expected = (f"{frames} x {width} x {height}" for frames, height, width in (size, shape[:3]))
        raise ValueError(f"the file is {claimed} (frames x width x height), but this server generates {expected}")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            is_grey = image.mode == "L" if len(shape) < 4 else shape[3] == 1
            mode, pixels = "L" if is_grey else "RGB", []
            for number in range(size[0]):
                image.seek(number)
                pixels.append(np.asarray(image.convert(mode)))
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the PNG is damaged: {error}") from error
    return np.stack(pixels).reshape(*shape[:3], -1)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk up to IEND. Raises ValueError where one is damaged."""
    if not png.startswith(_SIGNATURE):
        raise ValueError("not a PNG")
    position = len(_SIGNATURE)
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4].rjust(4, b"\0"))
        name, content = png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        end = position + 12 + length
        if end > len(png) or png[end - 4 : end] != struct.pack(">I", zlib.crc32(content, zlib.crc32(name))):
            raise ValueError(f"the PNG is damaged in its chunk {name.decode('latin-1')!r}")
        if name == b"IEND":
            return
        yield name, content
        position = end


def _stored(pixels: NDArray[np.uint8], text: str) -> bytes:
    """Uncompressed blocks, no filters."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + channels * width), dtype=np.uint8)  # each row starts with its filter, 0: none
    rows[:, 1:] = pixels.reshape(height, channels * width)
    return _assemble(pixels.shape, zlib.compress(rows.data, 0), text)


def _fast(pixels: NDArray[np.uint8], text: str) -> bytes:
    """Differences from the row above, deflated at the lowest level."""
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, channels * width)
    rows = np.full((height, 1 + channels * width), _UP, dtype=np.uint8)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])  # modulo 256, as the format requires
    return _assemble(pixels.shape, zlib.compress(rows.data, 1), text)


def _small(pixels: NDArray[np.uint8], text: str) -> bytes:
    """By Pillow: a filter chosen for each row, deflated at the highest level."""
    buffer = io.BytesIO()
    _image(pixels).save(buffer, "PNG", pnginfo=_text(text), optimize=True)
    return buffer.getvalue()


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def _text(text: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(PROVENANCE_KEYWORD, text)
    return info


COMPRESSIONS: dict[str, Callable[[NDArray[np.uint8], str], bytes]] = {"none": _stored, "fast": _fast, "small": _small}


def _assemble(shape: tuple[int, ...], data: bytes, text: str) -> bytes:
    height, width, channels = shape
    # 8 bits, colour type, compression, filter method, no interlace
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    itxt = _ITXT_HEAD + text.encode()
    chunks = ((b"IHDR", header), (b"iTXt", itxt), (b"IDAT", data), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
