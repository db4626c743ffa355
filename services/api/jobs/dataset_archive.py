"""A generated data set as one file, streamed: the shards of an image folder as one ZIP, tar shards inside one tar.

Only one shard is in memory at a time, so the size of the data set does not matter.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence

from shared.storage.generated_datasets import MANIFEST_FILE, DatasetManifest, GeneratedDatasets

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP can hold
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # a field with this value says that a ZIP64 record holds the real one
LARGEST_OFFSET = _FULL_32 - 1  # of a file, in the entry itself
# The records at the end of a ZIP file, as in APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3.14 to 4.3.16.
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY_BYTES = 46  # of an entry of the central directory, before its name


def archive_name(job_id: str, manifest: DatasetManifest) -> str:
    return f"{job_id}.{'zip' if manifest.format == 'imagefolder' else 'tar'}"


def stream_archive(job_id: str, manifest: DatasetManifest, datasets: GeneratedDatasets) -> Iterator[bytes]:
    """The bytes of the file, part by part. Raises CorruptArtifact for a damaged shard."""
    text = manifest.model_dump_json(indent=2).encode()
    if manifest.format == "webdataset":
        yield from _tar_entry(MANIFEST_FILE, text)
        for shard in manifest.shards:
            yield from _tar_entry(shard.name, datasets.read_shard(job_id, shard))
        yield bytes(2 * tarfile.BLOCKSIZE)
        return
    reads = [lambda shard=shard: datasets.read_shard(job_id, shard) for shard in manifest.shards]
    yield from merge_zips([lambda: _zip_of(MANIFEST_FILE, text), *reads])


def merge_zips(reads: Sequence[Callable[[], bytes]]) -> Iterator[bytes]:
    """One ZIP with the entries of all ZIPs. `reads` return ZIPs as `zipfile` writes them, and are called twice: once
    for the files, once for the directory at the end.
    """
    offsets = [0]
    for read in reads:
        data = read()
        start, _, _ = _directory(data)
        yield data[:start]
        offsets.append(offsets[-1] + start)
    entries = size = 0
    for read, offset in zip(reads, offsets, strict=False):
        data = read()
        start, length, count = _directory(data)
        moved = b"".join(_moved_entries(data[start : start + length], offset))
        yield moved
        entries, size = entries + count, size + len(moved)
    yield _end(entries, size, offsets[-1])


def _directory(data: bytes) -> tuple[int, int, int]:
    """-> (start, bytes and entries of the central directory of a ZIP without a comment)"""
    _, _, _, _, entries, length, start, _ = _END.unpack(data[-_END.size :])
    return start, length, entries


def _moved_entries(directory: bytes, offset: int) -> Iterator[bytes]:
    """The entries of a central directory, for files that lie `offset` bytes further back."""
    position = 0
    while position < len(directory):
        name, extra, comment = struct.unpack_from("<3H", directory, position + 28)
        end = position + _ENTRY_BYTES + name + extra + comment
        entry = bytearray(directory[position:end])
        (own,) = struct.unpack_from("<L", entry, 42)
        if own + offset <= LARGEST_OFFSET:
            struct.pack_into("<L", entry, 42, own + offset)
        else:
            struct.pack_into("<L", entry, 42, _FULL_32)
            struct.pack_into("<H", entry, 30, extra + 12)
            entry[_ENTRY_BYTES + name + extra : _ENTRY_BYTES + name + extra] = struct.pack("<2HQ", 1, 8, own + offset)
        yield bytes(entry)
        position = end


def _end(entries: int, size: int, start: int) -> bytes:
    """The records at the end: of a central directory with this number of entries, size and start."""
    record = _END_64.pack(b"PK\6\6", _END_64.size - 12, 45, 45, 0, 0, entries, entries, size, start)
    locator = _LOCATOR_64.pack(b"PK\6\7", 0, start + size, 1)
    count = min(entries, _FULL_16)
    return record + locator + _END.pack(b"PK\5\6", 0, 0, count, count, min(size, _FULL_32), min(start, _FULL_32), 0)


def _zip_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def _tar_entry(name: str, data: bytes) -> Iterator[bytes]:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    yield entry.tobuf(tarfile.USTAR_FORMAT)
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)
