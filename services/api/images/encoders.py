"""Encodes images: one grid as PNG, JPEG or WebP, one file per image in a ZIP or in JSON, or a NumPy array."""

from __future__ import annotations

import base64
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.api.images.class_sampling import ClassSamples
from services.generator.lossy import DEFAULT_QUALITY, LossyFormat, encode_lossy
from services.generator.png import encode_png, enlarge, tile
from shared.errors import InvalidInput

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of the format; a fixed date makes files reproducible


@dataclass(frozen=True)
class ImageGrid:
    """The images of one request and their layout. `provenance` goes into every file."""

    rows: Sequence[ClassSamples]
    provenance: Mapping[str, Any]
    first_index: int = 0
    columns: int | None = None
    scale: int = 1
    compress: str = "none"
    file_format: Literal["png"] | LossyFormat = "png"  # of the grid, or of each file in a ZIP
    quality: int = DEFAULT_QUALITY  # of JPEG and WebP

    @property
    def images(self) -> NDArray[np.uint8]:
        """All images, row after row: [N, H, W, 3]."""
        return self.rows[0].images if len(self.rows) == 1 else np.concatenate([row.images for row in self.rows])

    @property
    def names(self) -> str | list[str | None] | None:
        return self.rows[0].name if len(self.rows) == 1 else [row.name for row in self.rows]


def as_sheet(grid: ImageGrid) -> bytes:
    """One file with a grid of all images. Several classes have a row each unless `columns` is set."""
    n = len(grid.rows[0].images)
    columns = columns_of(len(grid.rows), n, grid.columns)
    layout = {"first_index": grid.first_index, "n": n, "columns": grid.columns, **_merged_provenance(grid.rows)}
    return _encode(tile(grid.images, columns, grid.scale), grid, grid.names, layout)


def columns_of(rows: int, n: int, columns: int | None) -> int:
    """Columns of a grid with n images of each of `rows` classes: as requested, or by default."""
    return columns or (n if rows > 1 else math.ceil(math.sqrt(n)))


def as_zip(grid: ImageGrid) -> bytes:
    """A file for each image, and `images.json`, which lists them with their class and index."""
    files, listed = [], []
    for name, index, data in _single(grid):
        files.append((f"{_file_name(name)}-{index:04d}.{grid.file_format}", data))
        listed.append({"file": files[-1][0], "class": name, "index": index})
    text = json.dumps(_common(grid) | {"images": listed}, indent=1, ensure_ascii=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # the files are compressed already, if requested
        for name, data in (*files, ("images.json", text.encode())):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), data)
    return buffer.getvalue()


def as_json(grid: ImageGrid) -> bytes:
    """The content of the ZIP as JSON: `images[].png` is a PNG in base64."""
    images = [
        {"class": name, "index": index, "png": base64.b64encode(png).decode()} for name, index, png in _single(grid)
    ]
    return json.dumps(_common(grid) | {"images": images}, ensure_ascii=False).encode()


def as_npy(grid: ImageGrid) -> bytes:
    """NumPy's file format: uint8 [N, H, W, 3], class after class."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, enlarge(grid.images, grid.scale), allow_pickle=False)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[ImageGrid], bytes]]] = {  # name -> (media type, function)
    "png": ("image/png", as_sheet),
    "jpeg": ("image/jpeg", as_sheet),
    "webp": ("image/webp", as_sheet),
    "zip": ("application/zip", as_zip),
    "json": ("application/json", as_json),
    "npy": ("application/x-npy", as_npy),
}


def _single(grid: ImageGrid) -> Iterator[tuple[str | None, int, bytes]]:
    """(class, index, file) of each image. Each file is the response to a request for that image alone."""
    for row in grid.rows:
        for position, image in enumerate(row.images):
            index = grid.first_index + position
            layout = {"first_index": index, "n": 1, "columns": None, **row.only(position).provenance}
            yield row.name, index, _encode(enlarge(image, grid.scale), grid, row.name, layout)


def _common(grid: ImageGrid) -> dict[str, Any]:
    """The provenance that all images share, for the head of a list."""
    return {**grid.provenance, **_merged_provenance(grid.rows)}


def _merged_provenance(rows: Sequence[ClassSamples]) -> dict[str, Any]:
    """How the images of all rows were chosen; a value that differs between rows becomes a list in their order."""
    provenances = [row.provenance for row in rows]
    return {key: value if all(other[key] == value for other in provenances) else [other[key] for other in provenances]
            for key, value in provenances[0].items()}  # fmt: skip


def _encode(pixels: NDArray[np.uint8], grid: ImageGrid, name: Any, layout: Mapping[str, Any]) -> bytes:
    provenance = {**grid.provenance, "class": name, **layout, "scale": grid.scale}
    if grid.file_format == "png":
        return encode_png(pixels, provenance | {"compress": grid.compress}, grid.compress)
    provenance |= {"format": grid.file_format, "quality": grid.quality}
    try:
        return encode_lossy(pixels, provenance, grid.file_format, grid.quality)
    except ValueError as error:
        message = f"{error}; choose png, or request fewer images or classes"
        raise InvalidInput.of("format", grid.file_format, message) from None


def _file_name(name: str | None) -> str:
    """The class as part of a file name that every file system accepts."""
    return "image" if name is None else "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
