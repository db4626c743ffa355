"""Caches decoded image folders on disk, so that a resumed run does not decode thousands of photos again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.errors import DISK_FULL
from shared.storage.artifacts import ArtifactStore

FORMAT = 1  # of decoding; increase it when the same file gives other pixels


class ImageCache:
    """Decoded images of folders, in `<cache>/images/<folder>/<content>.npy`. Only the newest content is kept.

    The content key covers the name, size and modification time of every file, and the resolution.
    """

    def __init__(self, cache: Path) -> None:
        self._store = ArtifactStore(f"file://{cache}")

    def read(self, folder: Path, files: Sequence[Path], resolution: int) -> Tensor | None:
        """uint8 [N, 3, H, W] in the order of `files`, or None if the content is not cached or the cache is damaged."""
        try:
            data = self._store.read(f"{_prefix(folder)}/{_content_key(files, resolution)}.npy")
            images = torch.from_numpy(np.load(io.BytesIO(data)))
        except (FileNotFoundError, ValueError, EOFError):
            return None
        is_intact = images.dtype == torch.uint8 and images.shape == (len(files), 3, resolution, resolution)
        return images if is_intact else None

    def write(self, folder: Path, files: Sequence[Path], images: Tensor) -> None:
        """Replaces what is cached of the folder. A full disk is no error: the images are only decoded again."""
        prefix, key = _prefix(folder), f"{_content_key(files, images.shape[-1])}.npy"
        buffer = io.BytesIO()
        np.save(buffer, images.numpy())
        for name in self._store.list(prefix):
            self._store.delete(f"{prefix}/{name}")
        try:
            self._store.write(f"{prefix}/{key}", buffer.getvalue())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise


def _prefix(folder: Path) -> str:
    return f"images/{hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]}"


def _content_key(files: Sequence[Path], resolution: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {resolution}".encode())
    for file in files:
        status = file.stat()
        digest.update(b"\0%s\0%d\0%d" % (bytes(file), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:32]
