"""Keeps decoded data sets on disk as memory-mapped files, so that each image is decoded once.

A run trains from the file: data sets may be larger than the memory, and processes share what is in the page cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from services.trainer.data.packing import PackedLabels, Pixels, Preprocessing, pack
from shared.datasets.layouts import Layout
from shared.datasets.report import DatasetReport, OnProgress

FORMAT = 2  # of decoding; increase it when the same file gives other pixels
LEFTOVER_AGE_S = 3600.0  # an unfinished file of this age belongs to no live process
_COPIED_ROWS = 4096


class PackedCache:
    """Packed data sets in `<cache>/packed/<folder and preprocessing>/<content>.npy`, with labels and report beside it.

    Only the newest content of a folder is kept. The content key covers the name, size and modification time of every
    file. A deleted file stays readable for the runs that have it open.
    """

    def __init__(self, cache: Path, layout: Layout, preprocessing: Preprocessing) -> None:
        self._layout, self._preprocessing = layout, preprocessing
        place = f"{layout.folder}\0{sorted(asdict(preprocessing).items())}"
        self._folder = cache / "packed" / hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        self._images = self._folder / f"{_content_key(layout)}.npy"
        self._labels = self._images.with_suffix(".json")

    def read(self) -> tuple[Pixels, PackedLabels] | None:
        """The pixels [N, C, H, W], memory-mapped, and what they are; None if they are not cached, or damaged."""
        try:
            meta = json.loads(self._labels.read_bytes())
            packed = PackedLabels(meta["labels"], meta["train"], DatasetReport.model_validate(meta["report"]))
            images = np.load(self._images, mmap_mode="c")  # changes would stay in memory; torch wants it writable
        except (FileNotFoundError, ValueError, EOFError, KeyError, TypeError):
            return None
        _, *side = self._preprocessing.shape
        is_intact = images.dtype == np.uint8 and images.ndim == 4 and images.shape[2:] == tuple(side)
        return (images, packed) if is_intact and len(images) == len(packed.labels) else None

    def write(self, on_progress: OnProgress) -> None:
        """Decodes the data set into the cache and removes older content of the folder. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with _atomic_file(self._images) as file:
            packed = self._write_images(file, on_progress)
        with _atomic_file(self._labels) as file:
            meta = {"labels": packed.labels, "train": packed.train, "report": packed.report.model_dump(mode="json")}
            file.write(json.dumps(meta).encode())
        self._remove_older()

    def _write_images(self, file: BinaryIO, on_progress: OnProgress) -> PackedLabels:
        channels, *side = self._preprocessing.shape
        _write_header(file, (len(self._layout.files), channels, *side))
        start = file.tell()
        packed = pack(self._layout, self._preprocessing, lambda pixels: file.write(pixels.tobytes()), on_progress)
        if self._preprocessing.channels is None and packed.report.channels == 1:
            _keep_first_channel(file, start, (len(packed.labels), channels, *side))
            channels = 1
        file.seek(0)
        _write_header(file, (len(packed.labels), channels, *side))  # numpy's header has room for any length
        return packed

    def _remove_older(self) -> None:
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                is_in_use = path.suffix == ".part" and time.time() - path.stat().st_mtime < LEFTOVER_AGE_S
                if path not in (self._images, self._labels) and not is_in_use:
                    path.unlink()


@contextmanager
def _atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that gets its name when it is complete and on the disk."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            yield file  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).replace(path)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _keep_first_channel(file: BinaryIO, start: int, shape: tuple[int, ...]) -> None:
    """Reduces the images [N, C, H, W] that follow `start` to their first channel, in place."""
    image_bytes = int(np.prod(shape[1:]))
    for row in range(0, shape[0], _COPIED_ROWS):
        file.seek(start + row * image_bytes)
        data = file.read(min(_COPIED_ROWS, shape[0] - row) * image_bytes)
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(-1, *shape[1:])
        file.seek(start + row * image_bytes // shape[1])
        file.write(pixels[:, :1].tobytes())
    file.truncate(start + shape[0] * image_bytes // shape[1])


def _content_key(layout: Layout) -> str:
    digest = hashlib.sha256(f"{FORMAT} {layout.classes}".encode())
    for file in layout.files:
        status = (layout.folder / file.name).stat()
        entry = f"\0{file.split} {file.label} {status.st_size} {status.st_mtime_ns} {file.name}"
        digest.update(os.fsencode(entry))
    return digest.hexdigest()[:32]
