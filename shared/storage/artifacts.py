"""Where what was made is kept: models, checkpoints, sample grids. Plain keys and bytes over fsspec.

`file://` by default; any other fsspec URL (`s3://bucket/prefix`) for several machines, with its driver installed.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_UNFINISHED = ".unfinished-"  # the leading dot keeps it out of listings
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ArtifactStore:
    """Writes are atomic: a reader sees all of an object or none of it, and locally it has reached the disk."""

    def __init__(self, url: str) -> None:
        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, key: str, data: bytes) -> None:
        """Stores the bytes, in place of what was there. Raises OSError (ENOSPC, say) and leaves what was there."""
        if self._is_local:
            _write_durably(Path(self._path(key)), data, replace=True)
        else:
            self._fs.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Stores the bytes unless the key is taken; says whether it did. Of several callers, one succeeds."""
        try:
            if self._is_local:
                _write_durably(Path(self._path(key)), data, replace=False)
            else:
                self._fs.pipe_file(self._path(key), data, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, key: str) -> bytes:
        """Raises FileNotFoundError when there is nothing under the key."""
        data: bytes = self._fs.cat_file(self._path(key))
        return data

    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(self._path(key)))

    def list(self, prefix: str) -> list[str]:
        """Names of the objects and folders right below a prefix, sorted; [] when there is no such prefix."""
        try:
            # Without refresh, fsspec may answer from a listing that it cached before another process wrote.
            found = self._fs.ls(self._path(prefix), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if _SEGMENT.fullmatch(name))

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is no error."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def sweep(self, prefix: str, older_than_s: float) -> None:
        """Removes what writers that were killed left unfinished right below a prefix; other stores do so themselves."""
        if not self._is_local:
            return
        for path in Path(self._path(prefix)).glob(f"{_UNFINISHED}*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()

    def _path(self, key: str) -> str:
        # No "..", no absolute path, no hidden file: a key cannot point outside the store.
        if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
            raise ValueError(f"not an artifact key: {key!r}")
        return f"{self._root}/{key}"


def _write_durably(path: Path, data: bytes, *, replace: bool) -> None:
    """Writes beside the target, flushes to the disk, then gives it its name; the name's folder is flushed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide it from another service's user
        if replace:
            Path(temporary).replace(path)
        else:
            os.link(temporary, path)  # unlike rename, fails when the name is taken
    finally:
        Path(temporary).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
