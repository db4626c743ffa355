"""The model registry: published models, each a manifest with files, and the aliases that point to them.

A model exists if and only if its manifest does. `publish` writes the manifest last, so a crash in between leaves no
model behind. A published model never changes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.configs.train import TrainConfig
from shared.errors import Conflict, CorruptArtifact, InvalidInput, UnknownAlias, UnknownModel
from shared.storage.artifacts import ArtifactStore
from shared.storage.records import read_record

DEFAULT_ALIAS = "default"
GENERATOR_FILE = "generator.onnx"
PREVIEW_FILE = "preview.png"
NEIGHBOURS_FILE = "neighbours.png"
MANIFEST_FILE = "manifest.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class ModelMetrics(BaseModel):
    """Quality metrics, with the protocol that measured them. null: not measured.

    Names without a prefix are measured with the features of Kiln's classifier, names with `imagenet_` with those of a
    network that was trained on ImageNet and knows nothing of the data set's classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fid: float | None = None
    kid: float | None = None
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    class_accuracy: float | None = None
    imagenet_fid: float | None = None
    imagenet_kid: float | None = None
    imagenet_precision: float | None = None
    imagenet_recall: float | None = None
    imagenet_density: float | None = None
    imagenet_coverage: float | None = None
    protocol: dict[str, Any] | None = None


class Memorisation(BaseModel):
    """Whether the model copies its training images; services/trainer/metrics/memorisation.py measures it.

    All figures compare distances to the nearest training image, between features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int  # generated images that were compared
    authenticity: float  # share of images farther from their training image than that is from its nearest other one
    copied_share: float  # share of images as near as the nearest 1 % of reference images
    nearer_share: float  # probability that an image is nearer than a reference image; 0.5: equally near
    reference: Literal["test", "train"]  # real images: test images, or training images and their nearest other one
    reference_images: int
    reference_authenticity: float  # authenticity of the reference images
    extractor: dict[str, Any] | None = None  # whose features were compared
    seed: int | None = None  # of the generated images
    warning: str | None = None  # set if the model copies


class Parity(BaseModel):
    """The largest difference between an image of the exported graph and torch's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_abs_difference: float
    batch_sizes: tuple[int, ...]


class ModelManifest(BaseModel):
    """Describes a published model: its origin, config, metrics and files."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str
    job_id: str
    created_at: datetime
    preset: str
    config: TrainConfig
    dataset: str
    classes: tuple[str, ...]
    data_digest: str | None = None  # SHA-256 of the training images, labels and class names; null for older models
    resolution: int = 32  # pixels, both ways
    channels: int = 3  # 1: grey
    latent_dim: int
    conditional: bool
    metrics: ModelMetrics = Field(default_factory=ModelMetrics)
    memorisation: Memorisation | None = None  # null: not measured
    parity: Parity
    images_seen: int
    device: str
    wall_seconds: float
    files: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256

    @property
    def digest(self) -> str:
        """The SHA-256 of the generator, which identifies the model and its images."""
        return self.files[GENERATOR_FILE]


def model_id_of(job_id: str, preset: str) -> str:
    """The id of the model that a job publishes. It is the same in every attempt, so a job publishes one model."""
    return f"{preset}-{job_id}"


class ModelRegistry:
    """Publishes, finds and deletes models, and moves aliases."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def publish(self, draft: ModelManifest, files: Mapping[str, bytes]) -> ModelManifest:
        """Stores the files, then the manifest with their digests. The first model of all gets the alias `default`.

        If two workers publish the same model, the first manifest remains, and both get it back. File keys contain
        the digest, so the workers' files do not mix.
        """
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        manifest = draft.model_copy(update={"files": digests})
        for name, data in files.items():
            self._artifacts.write(_file_key(manifest, name), data)
        record, text = _record_key(manifest.id), manifest.model_dump_json(indent=2).encode()
        if not self._artifacts.create(record, text):
            try:
                manifest = self.get(manifest.id)
            except CorruptArtifact:  # an unreadable manifest is no model; replace it
                self._artifacts.write(record, text)
        self._artifacts.create(f"aliases/{DEFAULT_ALIAS}", _alias_record(manifest.id))
        return manifest

    def has_models(self) -> bool:
        """Whether the registry contains any model, readable or not."""
        return bool(self._artifacts.list("models"))

    def list(self) -> list[ModelManifest]:
        """All models, newest first. Folders without a readable manifest are skipped."""
        manifests = []
        for name in self._artifacts.list("models"):
            with suppress(UnknownModel, CorruptArtifact):
                manifests.append(self.get(name))
        return sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True)

    def ids(self) -> Sequence[str]:
        """Ids of all models, those with a damaged manifest included. The empty folder of a deleted model is none."""
        return [name for name in self._artifacts.list("models") if self._artifacts.exists(_record_key(name))]

    def get(self, model_id: str) -> ModelManifest:
        """The model's manifest. Raises UnknownModel, and CorruptArtifact if the manifest is unreadable."""
        if not _NAME.fullmatch(model_id):
            raise UnknownModel(model_id)
        try:
            text = self._artifacts.read(_record_key(model_id))
        except FileNotFoundError:
            raise UnknownModel(model_id) from None
        return read_record(ModelManifest, text, f"the manifest of model {model_id}")

    def read_file(self, manifest: ModelManifest, name: str) -> bytes:
        """The bytes of a file, checked against the manifest's digest. Raises CorruptArtifact."""
        if name not in manifest.files:
            raise CorruptArtifact(f"the manifest of model {manifest.id} lists no file {name}")
        try:
            data = self._artifacts.read(_file_key(manifest, name))
        except FileNotFoundError:
            raise CorruptArtifact(f"model {manifest.id} lacks its file {name}") from None
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise CorruptArtifact(f"{name} of model {manifest.id} does not match the digest in its manifest")
        return data

    def aliases(self) -> dict[str, str]:
        """alias -> model id. Unreadable records are skipped."""
        targets = {}
        for alias in self.alias_names():
            with suppress(UnknownAlias, CorruptArtifact):
                targets[alias] = self.resolve(alias)
        return targets

    def alias_names(self) -> Sequence[str]:
        """All aliases, those with an unreadable record included."""
        return self._artifacts.list("aliases")

    def resolve(self, alias: str) -> str:
        """The id of the model that an alias points to. Raises UnknownAlias; CorruptArtifact for a damaged record."""
        if not _NAME.fullmatch(alias):
            raise UnknownAlias(alias)
        try:
            return str(json.loads(self._artifacts.read(f"aliases/{alias}"))["model_id"])
        except FileNotFoundError:
            raise UnknownAlias(alias) from None
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptArtifact(f"the record of alias {alias} is unreadable: {error!r}") from error

    def set_alias(self, alias: str, model_id: str) -> None:
        """Creates or moves an alias. Raises UnknownModel, and InvalidInput for an invalid name."""
        if not _NAME.fullmatch(alias):
            raise InvalidInput.of(
                "alias",
                alias,
                "an alias has 1 to 100 characters from a-z, 0-9, '.', '_' and '-', the first a letter or digit",
            )
        self.get(model_id)
        self._artifacts.write(f"aliases/{alias}", _alias_record(model_id))

    def delete(self, model_id: str) -> None:
        """Deletes the manifest first, which makes the model unknown, then the files.

        Raises UnknownModel, and Conflict if an alias points to the model.
        """
        manifest = self.get(model_id)
        pointing = sorted(alias for alias, target in self.aliases().items() if target == model_id)
        if pointing:
            raise Conflict(
                f"model {model_id} is in use as {', '.join(pointing)}; move the alias to another model first"
            )
        self._artifacts.delete(_record_key(model_id))
        for name in manifest.files:
            self._artifacts.delete(_file_key(manifest, name))


def _record_key(model_id: str) -> str:
    return f"models/{model_id}/{MANIFEST_FILE}"


def read_folder(folder: Path) -> tuple[ModelManifest, dict[str, bytes]]:
    """Reads a manifest and its files from a folder. The files have their own names, or those of a registry.

    Raises FileNotFoundError without a manifest, and CorruptArtifact if a file does not match its digest.
    """
    manifest = read_record(ModelManifest, (folder / MANIFEST_FILE).read_bytes(), f"the manifest in {folder}")
    files = {}
    for name, digest in manifest.files.items():
        candidates = (folder / name, folder / f"{digest[:16]}.{name}")
        files[name] = next((path.read_bytes() for path in candidates if path.is_file()), b"")
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise CorruptArtifact(f"{folder} lacks a {name} with the digest in its manifest")
    return manifest, files


def _file_key(manifest: ModelManifest, name: str) -> str:
    return f"models/{manifest.id}/{manifest.files[name][:16]}.{name}"


def _alias_record(model_id: str) -> bytes:
    return json.dumps({"model_id": model_id}).encode()
