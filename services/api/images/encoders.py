"""Images as bytes: one sheet, a PNG each in a ZIP or in JSON, or the bare numbers."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.api.images.class_sampling import ClassSamples
from services.api.images.png import encode_png, enlarge, tile

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can tell; the same images give the same file


@dataclass(frozen=True)
class ImageGrid:
    """All that is drawn for one request, and how it is to be laid out. `about` is said of every file."""

    rows: Sequence[ClassSamples]
    about: Mapping[str, Any]
    first_index: int = 0
    columns: int | None = None
    scale: int = 1
    compress: str = "none"

    @property
    def images(self) -> NDArray[np.uint8]:
        """All of them, row after row: [N, H, W, 3]."""
        return self.rows[0].images if len(self.rows) == 1 else np.concatenate([row.images for row in self.rows])

    @property
    def names(self) -> str | list[str | None] | None:
        return self.rows[0].name if len(self.rows) == 1 else [row.name for row in self.rows]


def as_png(picture: ImageGrid) -> bytes:
    """One sheet. Several classes have a row each unless `columns` says otherwise."""
    n = len(picture.rows[0].images)
    columns = picture.columns or (n if len(picture.rows) > 1 else None)
    layout = {"first_index": picture.first_index, "n": n, "columns": picture.columns, **_together(picture.rows)}
    return _encode(tile(picture.images, columns, picture.scale), picture, picture.names, layout)


def as_zip(picture: ImageGrid) -> bytes:
    """A PNG for each image, and `images.json`, which lists them with their class and index."""
    files, listed = [], []
    for name, index, png in _single(picture):
        files.append((f"{_file_name(name)}-{index:04d}.png", png))
        listed.append({"file": files[-1][0], "class": name, "index": index})
    text = json.dumps(_said(picture) | {"images": listed}, indent=1, ensure_ascii=False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNGs are deflated already, or not to be
        for name, data in (*files, ("images.json", text.encode())):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def as_json(picture: ImageGrid) -> bytes:
    """The same as text: `images[].png` is a PNG in base64."""
    images = [
        {"class": name, "index": index, "png": base64.b64encode(png).decode()} for name, index, png in _single(picture)
    ]
    return json.dumps(_said(picture) | {"images": images}, ensure_ascii=False).encode()


def as_npy(picture: ImageGrid) -> bytes:
    """NumPy's own format: uint8 [N, H, W, 3], class after class."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, enlarge(picture.images, picture.scale), allow_pickle=False)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[ImageGrid], bytes]]] = {  # name -> (media type, function)
    "png": ("image/png", as_png),
    "zip": ("application/zip", as_zip),
    "json": ("application/json", as_json),
    "npy": ("application/x-npy", as_npy),
}


def _single(picture: ImageGrid) -> Iterator[tuple[str | None, int, bytes]]:
    """(class, index, PNG) of each image. Each file is what a request for that image alone would give."""
    for row in picture.rows:
        for position, image in enumerate(row.images):
            index = picture.first_index + position
            layout = {"first_index": index, "n": 1, "columns": None, **row.only(position).about}
            yield row.name, index, _encode(enlarge(image, picture.scale), picture, row.name, layout)


def _said(picture: ImageGrid) -> dict[str, Any]:
    """What is said of all images, in a list of them."""
    return {**picture.about, **_together(picture.rows)}


def _together(rows: Sequence[ClassSamples]) -> dict[str, Any]:
    """What is to be told of how the images came to be of their classes; what differs, in the order of the rows."""
    told = [row.about for row in rows]
    return {key: value if all(other[key] == value for other in told) else [other[key] for other in told]
            for key, value in told[0].items()}  # fmt: skip


def _encode(pixels: NDArray[np.uint8], picture: ImageGrid, name: Any, layout: Mapping[str, Any]) -> bytes:
    provenance = {**picture.about, "class": name, **layout, "scale": picture.scale, "compress": picture.compress}
    return encode_png(pixels, provenance, picture.compress)


def _file_name(name: str | None) -> str:
    """The class as part of a file's name, for any file system."""
    return "image" if name is None else "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
