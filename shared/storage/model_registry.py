"""Published models: a manifest and its files each, and aliases that point at them.

A model exists if and only if its manifest does. `publish` writes the files first and the manifest last, so a machine
that dies in between leaves nothing that anybody would load. Nothing that was published is ever written again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.configs.presets import TrainConfig
from shared.errors import Conflict, CorruptArtifact, InvalidInput, UnknownAlias, UnknownModel
from shared.storage.artifacts import ArtifactStore

DEFAULT_ALIAS = "default"
GENERATOR_FILE = "generator.onnx"
PREVIEW_FILE = "preview.png"
MANIFEST_FILE = "manifest.json"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class ModelMetrics(BaseModel):
    """Quality figures; null is "not measured". They mean nothing without their protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fid: float | None = None
    kid: float | None = None
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    class_accuracy: float | None = None
    protocol: dict[str, Any] | None = None


class Parity(BaseModel):
    """How far the exported graph's images are from torch's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_abs_difference: float
    batch_sizes: tuple[int, ...]


class ModelManifest(BaseModel):
    """What a model is and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str
    job_id: str
    created_at: datetime
    preset: str
    config: TrainConfig
    dataset: str
    classes: tuple[str, ...]
    latent_dim: int
    conditional: bool
    metrics: ModelMetrics = Field(default_factory=ModelMetrics)
    parity: Parity
    images_seen: int
    device: str
    wall_seconds: float
    files: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256

    @property
    def digest(self) -> str:
        """What tells this model's images from any other's: the SHA-256 of its generator."""
        return self.files[GENERATOR_FILE]


def model_id_of(job_id: str, preset: str) -> str:
    """A job makes one model, whatever becomes of the worker that publishes it."""
    return f"{preset}-{job_id}"


class ModelRegistry:
    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def publish(self, draft: ModelManifest, files: Mapping[str, bytes]) -> ModelManifest:
        """Stores the files, then the manifest with their digests; the very first model becomes the alias `default`.

        The first manifest stands: a second worker that publishes the same model gets that one back. Files carry their
        digest in their key, so two workers at once cannot mix theirs.
        """
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        manifest = draft.model_copy(update={"files": digests})
        for name, data in files.items():
            self._artifacts.write(_file_key(manifest, name), data)
        record, text = _record_key(manifest.id), manifest.model_dump_json(indent=2).encode()
        if not self._artifacts.create(record, text):
            try:
                manifest = self.get(manifest.id)
            except CorruptArtifact:  # what was there was no manifest, and so no model
                self._artifacts.write(record, text)
        self._artifacts.create(f"aliases/{DEFAULT_ALIAS}", _alias_record(manifest.id))
        return manifest

    def has_models(self) -> bool:
        """Whether any was ever published here, sound or not."""
        return bool(self._artifacts.list("models"))

    def list(self) -> list[ModelManifest]:
        """All models, newest first. A folder without a sound manifest is no model and does not hide the others."""
        found = []
        for name in self._artifacts.list("models"):
            with suppress(UnknownModel, CorruptArtifact):
                found.append(self.get(name))
        return sorted(found, key=lambda manifest: manifest.created_at, reverse=True)

    def ids(self) -> Sequence[str]:
        """Of all that has a folder; some may be no model."""
        return self._artifacts.list("models")

    def get(self, model_id: str) -> ModelManifest:
        """Raises UnknownModel, and CorruptArtifact for a manifest that is none."""
        if not _NAME.fullmatch(model_id):
            raise UnknownModel(model_id)
        try:
            return ModelManifest.model_validate_json(self._artifacts.read(_record_key(model_id)))
        except FileNotFoundError:
            raise UnknownModel(model_id) from None
        except ValidationError as error:
            raise CorruptArtifact(f"the manifest of model {model_id} cannot be read: {error}") from error

    def read_file(self, manifest: ModelManifest, name: str) -> bytes:
        """A file of the model, checked against the digest in its manifest. Raises CorruptArtifact."""
        if name not in manifest.files:
            raise CorruptArtifact(f"model {manifest.id} was published without a file {name}")
        try:
            data = self._artifacts.read(_file_key(manifest, name))
        except FileNotFoundError:
            raise CorruptArtifact(f"model {manifest.id} has lost its file {name}") from None
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise CorruptArtifact(f"{name} of model {manifest.id} is not the file that was published")
        return data

    def aliases(self) -> dict[str, str]:
        """alias -> model id. A record that cannot be read is no alias, and does not hide the others."""
        found = {}
        for alias in self._artifacts.list("aliases"):
            with suppress(UnknownAlias, CorruptArtifact):
                found[alias] = self.resolve(alias)
        return found

    def resolve(self, alias: str) -> str:
        """The id of the model that an alias points at. Raises UnknownAlias, CorruptArtifact for a damaged record."""
        if not _NAME.fullmatch(alias):
            raise UnknownAlias(alias)
        try:
            return str(json.loads(self._artifacts.read(f"aliases/{alias}"))["model_id"])
        except FileNotFoundError:
            raise UnknownAlias(alias) from None
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptArtifact(f"the record of alias {alias} cannot be read: {error!r}") from error

    def set_alias(self, alias: str, model_id: str) -> None:
        """Points an alias, new or old, at a model. Raises UnknownModel, InvalidInput for a name no alias may have."""
        if not _NAME.fullmatch(alias):
            raise InvalidInput.of("alias", alias, "an alias is made of a-z, 0-9, '.', '_' and '-', up to 100 of them")
        self.get(model_id)
        self._artifacts.write(f"aliases/{alias}", _alias_record(model_id))

    def delete(self, model_id: str) -> None:
        """Takes the model away: its manifest first, and with it the model; then its files.

        Raises UnknownModel, and Conflict while an alias points at it: nobody's images may vanish by accident.
        """
        manifest = self.get(model_id)
        pointing = sorted(alias for alias, target in self.aliases().items() if target == model_id)
        if pointing:
            raise Conflict(f"model {model_id} is in use as {', '.join(pointing)}; point the alias elsewhere first")
        self._artifacts.delete(_record_key(model_id))
        for name in manifest.files:
            self._artifacts.delete(_file_key(manifest, name))


def _record_key(model_id: str) -> str:
    return f"models/{model_id}/{MANIFEST_FILE}"


def read_folder(folder: Path) -> tuple[ModelManifest, dict[str, bytes]]:
    """A model's manifest and files, from a folder that holds them under their own names or a registry's.

    Raises CorruptArtifact where one is not what the manifest says, FileNotFoundError without a manifest.
    """
    try:
        manifest = ModelManifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except ValidationError as error:
        raise CorruptArtifact(f"the manifest in {folder} cannot be read: {error}") from error
    files = {}
    for name, digest in manifest.files.items():
        places = (folder / name, folder / f"{digest[:16]}.{name}")
        files[name] = next((path.read_bytes() for path in places if path.is_file()), b"")
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise CorruptArtifact(f"{folder} lacks the {name} that its manifest describes")
    return manifest, files


def _file_key(manifest: ModelManifest, name: str) -> str:
    return f"models/{manifest.id}/{manifest.files[name][:16]}.{name}"


def _alias_record(model_id: str) -> bytes:
    return json.dumps({"model_id": model_id}).encode()
