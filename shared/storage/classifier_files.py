"""Reads and writes the files of a trained classifier: a folder with its manifest, its weights and its ONNX graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from shared.configs.classifier import ClassifierConfig
from shared.errors import CorruptArtifact, UnknownClassifier
from shared.storage.model_registry import Parity
from shared.storage.records import read_record

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "classifier.safetensors"  # the trainer loads these
GRAPH_FILE = "classifier.onnx"  # the API loads this


class ClassifierManifest(BaseModel):
    """Describes a trained classifier: its data, config, accuracy and files."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    created_at: datetime
    dataset: str
    classes: tuple[str, ...]
    data_digest: str | None = None  # as in a model's manifest
    config: ClassifierConfig
    resolution: int = 32  # pixels, both ways, of the images that it was trained on
    feature_dim: int  # length of the pooled features
    test_images: int
    test_accuracy: float
    multicrop_accuracy: float | None = None  # with the mean over six views of each image; None in older manifests
    class_accuracy: dict[str, float]  # accuracy on the test images, by class
    images_seen: int
    wall_seconds: float  # training time over all attempts
    images_per_second: float
    device: str
    command: str
    parity: Parity  # largest difference of a logit or feature between ONNX and torch
    files: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256

    @property
    def digest(self) -> str:
        """The SHA-256 of the weights, which identifies the classifier and its features."""
        return self.files[WEIGHTS_FILE]


def classifier_key(job_id: str, name: str) -> str:
    """The artifact key of a file of the classifier that a job trained."""
    return f"classifiers/{job_id}/{name}"


def read_manifest(folder: Path) -> ClassifierManifest:
    """The manifest in a folder. Raises UnknownClassifier if there is none, CorruptArtifact if it is unreadable."""
    try:
        text = (folder / MANIFEST_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UnknownClassifier(str(folder)) from None
    return read_record(ClassifierManifest, text, f"the manifest of the classifier in {folder}")


def read_file(folder: Path, manifest: ClassifierManifest, name: str) -> bytes:
    """The bytes of a file, checked against the manifest's digest. Raises CorruptArtifact."""
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        raise CorruptArtifact(f"the classifier in {folder} lacks its file {name}") from None
    if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
        raise CorruptArtifact(f"{name} of the classifier in {folder} does not match the digest in its manifest")
    return data


def write_classifier(folder: Path, draft: ClassifierManifest, files: Mapping[str, bytes]) -> ClassifierManifest:
    """Writes the files, then the manifest with their digests, and returns that manifest."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = draft.model_copy(update={"files": digests})
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest
