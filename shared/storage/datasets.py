"""Data sets that users have pushed: an archive, a report and a preview of each in the artifact store.

A data set exists if and only if its manifest does. The manifest names the archive, so a reader sees a complete data set
or none.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.datasets.report import DatasetReport
from shared.errors import CorruptArtifact, UnknownDataset
from shared.storage.artifacts import ArtifactStore

CIFAR10 = "cifar10"  # a data set that needs no folder
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
HASHED_BYTES = 1 << 20  # at a time

_PREFIX = "datasets"
_MANIFEST = "manifest.json"


class PushedDataset(BaseModel):
    """The manifest of a pushed data set."""

    model_config = ConfigDict(frozen=True)

    name: str
    display_name: str  # as its owner wrote it
    pushed_at: datetime
    digest: str  # SHA-256 of the archive; the same files under the same names give the same digest
    size_bytes: int  # of the archive
    version: str  # names the archive and the preview
    report: DatasetReport


class PushedDatasets:
    """Reads and writes the pushed data sets of an artifact store."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def names(self) -> list[str]:
        return [name for name in self._artifacts.list(_PREFIX) if self.exists(name)]

    def exists(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and self._artifacts.exists(_key(name, _MANIFEST))

    def get(self, name: str) -> PushedDataset:
        """Raises UnknownDataset, CorruptArtifact."""
        if NAME.fullmatch(name) is None:
            raise UnknownDataset(name)
        try:
            return PushedDataset.model_validate_json(self._artifacts.read(_key(name, _MANIFEST)))
        except FileNotFoundError:
            raise UnknownDataset(name) from None
        except ValidationError as error:
            raise CorruptArtifact(f"the manifest of data set {name} is unreadable: {error}") from error

    def list(self) -> list[PushedDataset]:
        """In the order of their names. Data sets with a damaged manifest are left out."""
        return list(self._readable())

    def _readable(self) -> Iterator[PushedDataset]:
        for name in self._artifacts.list(_PREFIX):
            try:
                yield self.get(name)
            except (UnknownDataset, CorruptArtifact):
                continue

    def publish(self, dataset: PushedDataset, archive: Path, preview: bytes) -> None:
        """Stores the files, then the manifest, and removes the files of the version before. Raises OSError."""
        previous = self._version_of(dataset.name)
        self._artifacts.copy_in(archive, _key(dataset.name, f"{dataset.version}.tar"))
        self._artifacts.write(_key(dataset.name, f"{dataset.version}.png"), preview)
        self._artifacts.write(_key(dataset.name, _MANIFEST), dataset.model_dump_json(indent=2).encode())
        if previous is not None:
            self._remove_version(dataset.name, previous)

    def preview(self, dataset: PushedDataset) -> bytes:
        """The sheet of sample images, as a PNG. Raises UnknownDataset if the data set is deleted meanwhile."""
        try:
            return self._artifacts.read(_key(dataset.name, f"{dataset.version}.png"))
        except FileNotFoundError:
            raise UnknownDataset(dataset.name) from None

    def delete(self, name: str) -> None:
        """Deletes the data set, and what unfinished pushes have left. Raises UnknownDataset."""
        if not self.exists(name):
            raise UnknownDataset(name)
        self._artifacts.delete(_key(name, _MANIFEST))
        self._artifacts.delete_all(f"{_PREFIX}/{name}")

    def unpack(self, dataset: PushedDataset, folder: Path, scratch: Path) -> None:
        """Writes the data set's files below `folder`; `scratch` holds the archive meanwhile.

        Raises UnknownDataset if it is deleted meanwhile, CorruptArtifact if the archive is damaged, OSError.
        """
        try:
            self._artifacts.copy_out(_key(dataset.name, f"{dataset.version}.tar"), scratch)
        except FileNotFoundError:
            raise UnknownDataset(dataset.name) from None
        try:
            with scratch.open("rb") as file:
                if _sha256(file) != dataset.digest:
                    raise CorruptArtifact(f"the archive of data set {dataset.name} does not match its digest")
            with tarfile.open(scratch) as archive:
                archive.extractall(folder, filter="data")
        finally:
            scratch.unlink()

    def _version_of(self, name: str) -> str | None:
        try:
            return self.get(name).version
        except (UnknownDataset, CorruptArtifact):
            return None

    def _remove_version(self, name: str, version: str) -> None:
        for ending in ("tar", "png"):
            self._artifacts.delete(_key(name, f"{version}.{ending}"))


def new_version() -> str:
    """A name for the files of one push. It is random, so that two pushes never write to the same files."""
    return secrets.token_hex(8)


def pack(folder: Path, names: Sequence[str], archive: Path) -> str:
    """Writes the named files to a tar without times and owners, so that it depends on the files alone. -> SHA-256"""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(names):
            member = tarfile.TarInfo(name)
            member.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                tar.addfile(member, file)
    with archive.open("rb") as file:
        return _sha256(file)


def slug(name: str) -> str:
    """The name of a data set in URLs and jobs: `my photos` -> `my-photos`, `Blüten` -> `Bluten`.

    A name without any letter or digit of ASCII becomes `dataset-` and a part of its SHA-256.
    """
    if NAME.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:100]
    return plain or f"dataset-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def folders(root: Path) -> Sequence[Path]:
    """The folders of data sets below KILN_DATASETS, in the order of their names; hidden ones are left out."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.name[0] not in "._" and path.is_dir())


def find_folder(root: Path, name: str) -> Path:
    """The folder below `root` with this name or with this slug; `<root>/<name>` if there is none."""
    if (root / name).is_dir():
        return root / name
    return next((folder for folder in folders(root) if slug(folder.name) == name), root / name)


def dataset_names(root: Path, pushed: PushedDatasets) -> Sequence[str]:
    """The names of all data sets, sorted. CIFAR-10 is one of them, because it is downloaded on first use."""
    return sorted({CIFAR10, *pushed.names(), *(slug(folder.name) for folder in folders(root))})


def dataset_exists(name: str, root: Path, pushed: PushedDatasets) -> bool:
    return name == CIFAR10 or pushed.exists(name) or find_folder(root, name).is_dir()


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(HASHED_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _key(name: str, file: str) -> str:
    return f"{_PREFIX}/{name}/{file}"
