"""The artifact store: models, checkpoints and sample grids as bytes under keys, on any file system of fsspec.

The default is `file://`. Several machines can share another fsspec URL, such as `s3://bucket/prefix`; its driver must
be installed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

_UNFINISHED = ".unfinished-"  # the leading dot keeps it out of listings
COPIED_BYTES = 1 << 20  # at a time
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ArtifactStore:
    """Writes are atomic: a reader sees a whole object or none. On a local disk they are durable, too."""

    def __init__(self, url: str) -> None:
        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, key: str, data: bytes) -> None:
        """Stores or replaces an object. Raises OSError, for example ENOSPC, and then leaves the old object in place."""
        if self._is_local:
            _write_durably(Path(self._path(key)), data, replace=True)
        else:
            self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Stores an object unless the key exists, and returns whether it did. One of several callers succeeds."""
        try:
            if self._is_local:
                _write_durably(Path(self._path(key)), data, replace=False)
            else:
                self._fs.pipe_file(self._path(key), data, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, key: str) -> bytes:
        """The object under the key. Raises FileNotFoundError."""
        data: bytes = self._fs.cat_file(self._path(key))
        return data

    def copy_in(self, path: Path, key: str) -> None:
        """Stores the content of a file of any size, as `write` does. Raises OSError."""
        if self._is_local:
            with path.open("rb") as source:
                _write_durably(Path(self._path(key)), source, replace=True)
        else:
            self._fs.put_file(str(path), self._path(key))

    def copy_out(self, key: str, path: Path) -> None:
        """Writes an object of any size to a file. Raises FileNotFoundError, OSError."""
        self._fs.get_file(self._path(key), str(path))

    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(self._path(key)))

    def list(self, prefix: str) -> list[str]:
        """Sorted names of the objects and folders directly below a prefix; [] if the prefix does not exist."""
        try:
            # Without refresh, fsspec may return a cached listing that lacks another process's writes.
            paths = self._fs.ls(self._path(prefix), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if _SEGMENT.fullmatch(name))

    def delete(self, key: str) -> None:
        """Removes an object, if it exists."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def delete_all(self, prefix: str) -> None:
        """Removes all objects below a prefix, if there are any."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._path(prefix), recursive=True)

    def sweep(self, prefix: str, older_than_s: float) -> None:
        """Removes unfinished files of killed writers directly below a prefix. Remote stores do that themselves."""
        if not self._is_local:
            return
        for path in Path(self._path(prefix)).glob(f"{_UNFINISHED}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()

    def _path(self, key: str) -> str:
        # No "..", no absolute path and no hidden file: a key never points outside the store.
        if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
            raise ValueError(f"not an artifact key: {key!r}")
        return f"{self._root}/{key}"


def _write_durably(path: Path, data: bytes | BinaryIO, *, replace: bool) -> None:
    """Writes a temporary file beside the target, flushes it to the disk, renames it, and flushes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file, COPIED_BYTES)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide it from services of other users
        if replace:
            Path(temporary).replace(path)
        else:
            os.link(temporary, path)  # unlike rename, this fails if the name exists
    finally:
        Path(temporary).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
