"""Writes and reads JPEG and WebP files: small files of large grids, with their provenance in EXIF.

EXIF and not XMP: its reader parses no XML, which matters for files that strangers upload to /verify. The field Software
says `Kiln`, and the field ImageDescription holds the provenance as JSON.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

LossyFormat = Literal["jpeg", "webp"]

LOSSY_FORMATS: tuple[LossyFormat, ...] = ("jpeg", "webp")
DEFAULT_QUALITY = 90
MAX_SIDE: dict[LossyFormat, int] = {"jpeg": 65_500, "webp": 16_383}  # limits of libjpeg and of the WebP format
MAX_PROVENANCE_BYTES = 60_000  # a JPEG holds EXIF in one segment of 64 KiB

_SOFTWARE = "Kiln"
_FULL_CHROMA = 0  # no subsampling, which would blur the colours of small images


def encode_lossy(pixels: NDArray[np.uint8], provenance: dict[str, Any], form: LossyFormat, quality: int) -> bytes:
    """[H, W, C] -> a JPEG or WebP file of that quality, 1 to 100; grey with one channel.

    The same pixels, provenance and version of Pillow give the same bytes. Raises ValueError for a provenance that does
    not fit into the file.
    """
    text = json.dumps(provenance, sort_keys=True)
    if len(text) > MAX_PROVENANCE_BYTES:
        raise ValueError(f"the provenance has {len(text):,} bytes; a {form} file holds {MAX_PROVENANCE_BYTES:,}")
    exif = Image.Exif()
    exif[Base.Software], exif[Base.ImageDescription] = _SOFTWARE, text
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    options: dict[str, Any] = {"subsampling": _FULL_CHROMA} if form == "jpeg" else {}
    buffer = io.BytesIO()
    image.save(buffer, form.upper(), quality=quality, exif=exif, **options)
    return buffer.getvalue()


def lossy_format_of(data: bytes) -> LossyFormat | None:
    """The format by the first bytes of a file; None for others."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def read_provenance(data: bytes) -> dict[str, Any] | None:
    """The provenance in the file, or None when Kiln did not write one. Decodes no pixels. Raises ValueError."""
    exif = Image.Exif()
    try:
        exif.load(_webp_exif(data) if lossy_format_of(data) == "webp" else _open_jpeg(data).info.get("exif", b""))
        is_ours, text = exif.get(Base.Software) == _SOFTWARE, exif.get(Base.ImageDescription)
        provenance = json.loads(text) if is_ours and isinstance(text, str) else None
    except (SyntaxError, ValueError, struct.error, TypeError, KeyError, OSError):  # damaged EXIF, or not JSON
        return None
    return provenance if isinstance(provenance, dict) else None


def read_size(data: bytes) -> tuple[int, int, int]:
    """(frames, height, width) that the file claims. Decodes no pixels. Raises ValueError."""
    if lossy_format_of(data) == "webp":
        return _webp_size(data)
    image = _open_jpeg(data)
    return 1, image.height, image.width


def read_frames(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pixels as [1, H, W, 3]. Raises ValueError for a damaged file.

    Raises ValueError before any pixel is decoded for another size than that of `shape`: a small file may claim a large
    part of the memory.
    """
    if (size := read_size(data)) != shape[:3]:
        claimed, expected = (f"{frames} x {width} x {height}" for frames, height, width in (size, shape[:3]))
        raise ValueError(f"the file is {claimed} (frames x width x height), but this server generates {expected}")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "WEBP"]) as image:
            return np.asarray(image.convert("RGB"))[None]
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the file is damaged: {error}") from error


def _open_jpeg(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=["JPEG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("the JPEG is damaged") from error


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk. Pillow would allocate the claimed size when it opens the file."""
    position = 12  # after `RIFF`, the length and `WEBP`
    while position + 8 <= len(data):
        (length,) = struct.unpack("<I", data[position + 4 : position + 8])
        yield data[position : position + 4], data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _webp_exif(data: bytes) -> bytes:
    return next((content for name, content in _webp_chunks(data) if name == b"EXIF"), b"")


def _webp_size(data: bytes) -> tuple[int, int, int]:
    """From the extended header, which every file with EXIF has."""
    header = next((content for name, content in _webp_chunks(data) if name == b"VP8X"), b"")
    if len(header) != 10:
        raise ValueError("the WebP file is damaged, or has no extended header, so Kiln did not write it")
    frames = max(1, sum(name == b"ANMF" for name, _ in _webp_chunks(data)))
    width, height = (1 + int.from_bytes(header[start : start + 3], "little") for start in (4, 7))
    return frames, height, width
