"""Unpacks an archive that nobody vouches for: a ZIP or a tar. It cannot write outside its folder or fill the disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from shared.errors import InvalidInput

MAX_FILES = 500_000
MAX_RATIO = 100  # of unpacked to packed bytes; images hardly shrink, a ZIP bomb shrinks to a thousandth
RATIO_APPLIES_ABOVE = 256 << 20  # bytes; a small set of one-coloured bitmaps may shrink as much as a bomb
MAX_NAME_BYTES, MAX_DEPTH = 255, 32
COPIED_BYTES = 1 << 20  # at a time
MAX_READ_BYTES = 16 << 20  # of tarfile in one call: it reads a member's extended header at once
MAX_DIRECTORY_BYTES = 200 * MAX_FILES  # zipfile reads the list of members at once

DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error, struct.error,
    ValueError, OverflowError,
)  # fmt: skip
DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
FORMATS = "send a ZIP or a tar (plain, .gz, .bz2 or .xz)"


def unpack(archive: Path, folder: Path, limit_bytes: int) -> None:
    """Writes the files of the archive below `folder`. Raises InvalidInput, which names the entry; OSError."""
    writer = _Writer(folder, limit_bytes, archive.stat().st_size)
    with archive.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        try:
            for entry in _entries(file, start, limit_bytes):
                writer.write(entry)
        except DAMAGED as error:
            raise _refusal(f"the archive is truncated or damaged: {error}") from None
        except (NotImplementedError, RuntimeError) as error:  # zipfile: compression methods and encryption
            raise _refusal(f"the archive cannot be read: {error}") from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise _refusal(f"the archive is truncated or damaged: {error}") from None  # bz2 raises it


@dataclass(frozen=True)
class _Entry:
    name: str
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes]]


class _Writer:
    """Writes entries, and counts what they add up to."""

    def __init__(self, folder: Path, limit_bytes: int, packed_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._ratio_bytes = max(RATIO_APPLIES_ABOVE, MAX_RATIO * packed_bytes)
        self._files = self._bytes = 0

    def write(self, entry: _Entry) -> None:
        self._files += 1
        if self._files > MAX_FILES:
            raise _refusal(
                f"more than {MAX_FILES:,} entries; push a smaller data set, or use a folder in KILN_DATASETS"
            )
        parts = _parts(entry.name)
        if entry.is_folder or not parts:
            return  # a folder without files is no part of a data set
        if not entry.is_file:
            raise _refusal("this entry is a link or a device; pack the files themselves", entry.name)
        target = self._folder.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Nothing below the folder is a link, and an existing file is never opened: it stays inside the folder.
            with target.open("xb") as file, entry.open() as source:
                self._copy(source, file)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _refusal("this entry occurs twice, or is both a file and a folder", entry.name) from None

    def _copy(self, source: IO[bytes], file: BinaryIO) -> None:
        while block := source.read(COPIED_BYTES):
            self._bytes += len(block)
            if self._bytes > self._limit_bytes:
                raise _refusal(f"unpacked, the files have more than {self._limit_bytes:,} bytes, the limit that "
                               "KILN_MAX_DATASET_GB sets")  # fmt: skip
            if self._bytes > self._ratio_bytes:
                raise _refusal(f"unpacked, the archive is more than {MAX_RATIO} times as large: it is no set of images")
            file.write(block)


def _entries(file: BinaryIO, start: bytes, limit_bytes: int) -> Iterator[_Entry]:
    if start.startswith(b"PK"):
        yield from _zip_entries(file)
        return
    with _decompressed(file, start) as plain:
        yield from _tar_entries(_BoundedReader(plain, limit_bytes))


@contextmanager
def _decompressed(file: BinaryIO, start: bytes) -> Iterator[BinaryIO]:
    make = next((make for magic, make in DECOMPRESSORS.items() if start.startswith(magic)), None)
    is_empty_tar = start == bytes(tarfile.BLOCKSIZE)
    if make is None and start[257:262] != b"ustar" and not is_empty_tar:
        raise _refusal(f"this is no archive that Kiln reads; {FORMATS}")
    if make is None:
        yield file
        return
    with make(file) as plain:
        yield cast(BinaryIO, plain)


def _zip_entries(file: BinaryIO) -> Iterator[_Entry]:
    if _directory_bytes(file) > MAX_DIRECTORY_BYTES:
        raise _refusal(f"more than {MAX_FILES:,} entries; push a smaller data set, or use a folder in KILN_DATASETS")
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive comes from Windows
            yield _Entry(
                name=info.filename.replace("\\", "/"),
                is_folder=info.is_dir(),
                is_file=mode in (0, stat.S_IFREG),
                open=lambda info=info: archive.open(info),  # type: ignore[misc]
            )


def _directory_bytes(file: BinaryIO) -> int:
    """The size of a ZIP's list of members, as the end of the file states it; 0 if there is none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 100))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        return 0
    (length,) = struct.unpack_from("<I", tail, at + 12)
    if length != 0xFFFFFFFF:
        return int(length)
    large = tail.rfind(b"PK\x06\x06", 0, at)  # the record of ZIP64
    return int(struct.unpack_from("<Q", tail, large + 40)[0]) if large >= 0 else MAX_DIRECTORY_BYTES + 1


def _tar_entries(file: _BoundedReader) -> Iterator[_Entry]:
    with tarfile.open(fileobj=cast(Any, file), mode="r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header in memory
            yield _Entry(
                name=member.name,
                is_folder=member.isdir(),
                is_file=member.isreg(),
                open=lambda member=member: cast("IO[bytes]", archive.extractfile(member)),  # type: ignore[misc]
            )
        # tarfile also stops, without an error, where a file was cut between two members.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")


class _BoundedReader:
    """A file that refuses to be read in huge pieces, or beyond what a data set may have."""

    def __init__(self, file: BinaryIO, limit_bytes: int) -> None:
        self._file = file
        self._limit_bytes = limit_bytes + 2048 * MAX_FILES  # and headers

    def read(self, size: int) -> bytes:
        if size > MAX_READ_BYTES:
            raise _refusal(f"a header of {size:,} bytes")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if position > self._limit_bytes:
            raise _refusal(f"an entry at byte {position:,}, beyond the limit that KILN_MAX_DATASET_GB sets")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def _parts(name: str) -> list[str]:
    """The folders and the file name of an entry. Raises InvalidInput for names that no data set needs."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or (len(name) > 1 and name[1] == ":"):
        raise _refusal("this entry leads out of the data set; use relative paths without '..'", name)
    if len(parts) > MAX_DEPTH or any(len(part.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES for part in parts):
        raise _refusal("the path of this entry is too long", name)
    return parts


def _refusal(message: str, entry: str | None = None) -> InvalidInput:
    return InvalidInput.of("archive", entry, message)
