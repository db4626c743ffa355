"""The files of a generated data set in the artifact store: shards, a record of each, and the manifest, written last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.configs.generate import Compression, DatasetFormat
from shared.errors import CorruptArtifact, UnknownGeneratedDataset
from shared.storage.artifacts import ArtifactStore

MANIFEST_FILE = "manifest.json"
SUFFIXES: dict[DatasetFormat, str] = {"imagefolder": "zip", "webdataset": "tar"}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Shard(_Record):
    """One file of the data set."""

    name: str
    images: int
    bytes: int
    sha256: str


class Position(_Record):
    """How far a job is: images of each class, and the next draw of each class. `""` stands for no class.

    An unconditional model draws for all classes together, so it has one next draw, under `""`.
    """

    made: dict[str, int] = Field(default_factory=dict)
    next_draw: dict[str, int] = Field(default_factory=dict)

    @property
    def images(self) -> int:
        return sum(self.made.values())

    @property
    def rejected(self) -> int:
        """Draws that the classifier rejected."""
        return sum(self.next_draw.values()) - self.images


class ShardRecord(_Record):
    """Commits a shard: it is written after the file. `position` is where the next shard starts."""

    shard: Shard
    position: Position


class DatasetManifest(_Record):
    """Describes a generated data set. It holds no time and no job, so equal data sets have equal manifests."""

    model: str
    model_digest: str
    trained_on: str  # the model's data set
    classes: dict[str, int]  # images of each class
    images: int
    requested: int  # more than `images` if the job was finished early
    format: DatasetFormat
    seed: int
    truncation: float | None
    compress: Compression
    min_confidence: float | None
    classifier: str | None  # SHA-256 of the classifier that filtered the images
    rejected: int  # images that were drawn and left out
    rejected_by_class: dict[str, int]  # empty for an unconditional model, whose draws belong to no class
    shards: tuple[Shard, ...]


class GeneratedDatasets:
    """Reads and writes the data sets of generate jobs, by job id."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def write_shard(self, job_id: str, number: int, data: bytes, record: ShardRecord) -> None:
        """Writes the file, then its record. Raises OSError."""
        self._artifacts.write(_key(job_id, record.shard.name), data)
        self._artifacts.write(_record_key(job_id, number), record.model_dump_json().encode())

    def committed(self, job_id: str) -> Iterator[ShardRecord]:
        """The records from the first shard to the last one before a gap. A damaged record counts as a gap."""
        number = 0
        while True:
            try:
                yield ShardRecord.model_validate_json(self._artifacts.read(_record_key(job_id, number)))
            except (FileNotFoundError, ValidationError):
                return
            number += 1

    def write_manifest(self, job_id: str, manifest: DatasetManifest) -> None:
        """Makes the data set exist. Raises OSError."""
        self._artifacts.write(_key(job_id, MANIFEST_FILE), manifest.model_dump_json(indent=2).encode())

    def manifest(self, job_id: str) -> DatasetManifest:
        """Raises UnknownGeneratedDataset, CorruptArtifact."""
        try:
            return DatasetManifest.model_validate_json(self._artifacts.read(_key(job_id, MANIFEST_FILE)))
        except FileNotFoundError:
            raise UnknownGeneratedDataset(job_id) from None
        except ValidationError as error:
            raise CorruptArtifact(f"the manifest of the data set of job {job_id} is unreadable: {error}") from error

    def read_shard(self, job_id: str, shard: Shard) -> bytes:
        """The bytes of a shard, checked against its digest. Raises CorruptArtifact."""
        try:
            data = self._artifacts.read(_key(job_id, shard.name))
        except FileNotFoundError:
            raise CorruptArtifact(f"the data set of job {job_id} lacks its file {shard.name}") from None
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise CorruptArtifact(f"{shard.name} of job {job_id} does not match the digest in its manifest")
        return data


def describe_shard(number: int, file_format: DatasetFormat, data: bytes, images: int) -> Shard:
    """The shard with this number, from 0."""
    name, digest = f"shard-{number:05d}.{SUFFIXES[file_format]}", hashlib.sha256(data).hexdigest()
    return Shard(name=name, images=images, bytes=len(data), sha256=digest)


def _record_key(job_id: str, number: int) -> str:
    return _key(job_id, f"shard-{number:05d}.json")


def _key(job_id: str, name: str) -> str:
    return f"jobs/{job_id}/dataset/{name}"
