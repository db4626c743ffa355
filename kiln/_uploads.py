"""Turns a folder of images, or an archive, into the body of an upload: piece by piece, without a copy on the disk."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 1 << 20

OnProgress = Callable[[int, int], object]  # (bytes sent, bytes in total)


@dataclass(frozen=True)
class Upload:
    """The bytes of a tar of a folder, or those of a file."""

    path: Path
    files: tuple[tuple[str, Path, int], ...]  # of a folder: name in the tar, path, size in bytes
    size: int  # in bytes

    @classmethod
    def of(cls, path: Path) -> Upload:
        """Raises FileNotFoundError, OSError."""
        if not path.is_dir():
            return cls(path, (), path.stat().st_size)
        files = tuple((name, file, file.stat().st_size) for name, file in _files_below(path))
        size = sum(len(_header(name, size)) + _padded(size) for name, _, size in files) + 2 * tarfile.BLOCKSIZE
        return cls(path, files, size)

    def pieces(self, on_progress: OnProgress | None) -> Iterator[bytes]:
        """The bytes in order. Raises OSError, also if a file has changed its size."""
        sent = 0
        for piece in self._tar() if self.path.is_dir() else _read(self.path, self.size):
            sent += len(piece)
            yield piece
            if on_progress is not None:
                on_progress(sent, self.size)

    async def async_pieces(self, on_progress: OnProgress | None) -> AsyncIterator[bytes]:
        """The same, read in a thread."""
        pieces = self.pieces(on_progress)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    def _tar(self) -> Iterator[bytes]:
        for name, path, size in self.files:
            yield _header(name, size)
            yield from _read(path, size)
            if rest := _padded(size) - size:
                yield bytes(rest)
        yield bytes(2 * tarfile.BLOCKSIZE)


def _files_below(root: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of all files, without hidden ones. A folder that several links lead to is read once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix(), path


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _read(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left:
            piece = file.read(min(PIECE_BYTES, left))
            if not piece:
                raise OSError(None, "the file has become shorter while it was being sent", str(path))
            left -= len(piece)
            yield piece
