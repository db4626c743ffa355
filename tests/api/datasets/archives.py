"""Folders of images, and archives of them, for tests of data sets."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from PIL import Image


def png(number: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    """An image whose colour depends on the number."""
    file = io.BytesIO()
    Image.new("RGB", size, (number * 37 % 256, number * 91 % 256, number * 53 % 256)).save(file, "PNG")
    return file.getvalue()


def flowers(per_class: int = 3) -> dict[str, bytes]:
    """Files of a data set of two classes, by name."""
    names = [f"train/{label}/{number}.png" for label in ("daisy", "rose") for number in range(per_class)]
    return {name: png(number) for number, name in enumerate(names)}


def as_zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def as_tar(files: dict[str, bytes], compression: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
