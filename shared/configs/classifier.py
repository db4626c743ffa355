"""The classifier that measures models: what it is trained with, and what is known of a trained one.

Its files lie in one folder: the manifest, the weights as safetensors for the trainer, the graph as ONNX for the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.configs.presets import TrainConfig, resolve
from shared.errors import CorruptArtifact, FieldProblem, InvalidInput, UnknownClassifier
from shared.storage.model_registry import Parity

CLASSIFIER = "classifier"  # the preset of a job that trains one

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "classifier.safetensors"
GRAPH_FILE = "classifier.onnx"


class ClassifierConfig(BaseModel):
    """Everything that decides what training a classifier computes. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Below 8, torch 2.15's 1x1 convolutions of stride 2 write beside their memory on a CPU (channels-last, backward).
    width: int = Field(64, ge=8, le=256, description="Channels of the first stage; ResNet-18 has 64.")
    epochs: int = Field(30, ge=1, le=1000, description="Times that every image is shown.")
    batch_size: int = Field(128, ge=2, le=4096, description="Images per step.")
    lr: float = Field(0.2, gt=0, le=10, description="Learning rate of SGD at its highest.")
    warmup: float = Field(0.2, ge=0, lt=1, description="Share of the budget over which the rate rises.")
    momentum: float = Field(0.9, gt=0, lt=1, description="Nesterov momentum.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Of weights; batch norms and biases have none.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Probability spread over all classes.")
    flip: bool = Field(True, description="Flip half of the images horizontally.")
    crop_padding: int = Field(4, ge=0, le=16, description="Pad by so many pixels, then crop at random.")
    cutout_px: int = Field(0, ge=0, le=32, description="Side of the black square put on each image; 0: none.")
    small_px: int = Field(32, ge=8, le=32, description="Images are shrunk to this side at first; 32: they are not.")
    small_share: float = Field(0.6, ge=0, lt=1, description="Share of the budget that counts as 'at first'.")
    ema_halflife_nimg: int = Field(0, ge=0, description="Half-life of the averaged weights, in images; 0: none.")
    tick_nimg: int = Field(10_000, ge=1, description="Images between two lines of the log.")
    checkpoint_every_s: float = Field(120.0, ge=0, description="Seconds between two checkpoints.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random in the run.")


class ClassifierManifest(BaseModel):
    """What a trained classifier is and how good it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    created_at: datetime
    dataset: str
    classes: tuple[str, ...]
    config: ClassifierConfig
    feature_dim: int  # length of the pooled features
    test_images: int
    test_accuracy: float
    class_accuracy: dict[str, float]  # on the test images, by class
    images_seen: int
    wall_seconds: float  # of training, over all attempts
    images_per_second: float
    device: str
    command: str
    parity: Parity  # the largest difference of a logit or feature between ONNX and torch
    files: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256

    @property
    def digest(self) -> str:
        """What tells this classifier's features from any other's: the SHA-256 of its weights."""
        return self.files[WEIGHTS_FILE]


def resolve_classifier(overrides: Mapping[str, Any]) -> ClassifierConfig:
    """The defaults with some values replaced. Raises InvalidInput; fields are named `overrides.<field>`."""
    try:
        return ClassifierConfig.model_validate(dict(overrides))
    except ValidationError as error:
        raise InvalidInput(
            [
                FieldProblem("overrides." + ".".join(map(str, e["loc"])), e["input"], e["msg"])
                for e in error.errors(include_url=False)
            ]
        ) from None


def resolve_job(preset: str, overrides: Mapping[str, Any]) -> TrainConfig | ClassifierConfig:
    """What a job of that preset trains with: a row of the table, or a classifier. Raises InvalidInput."""
    return resolve_classifier(overrides) if preset == CLASSIFIER else resolve(preset, overrides)


def classifier_key(job_id: str, name: str) -> str:
    """Where the artifact store keeps a file of the classifier that a job trained."""
    return f"classifiers/{job_id}/{name}"


def read_manifest(folder: Path) -> ClassifierManifest:
    """Raises UnknownClassifier when the folder has none, CorruptArtifact when it cannot be read."""
    try:
        return ClassifierManifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UnknownClassifier(str(folder)) from None
    except ValidationError as error:
        raise CorruptArtifact(f"the manifest of the classifier in {folder} cannot be read: {error}") from error


def read_file(folder: Path, manifest: ClassifierManifest, name: str) -> bytes:
    """A file of the classifier, checked against the digest in its manifest. Raises CorruptArtifact."""
    try:
        data = (folder / name).read_bytes()
    except FileNotFoundError:
        raise CorruptArtifact(f"the classifier in {folder} has lost its file {name}") from None
    if hashlib.sha256(data).hexdigest() != manifest.files.get(name):
        raise CorruptArtifact(f"{name} of the classifier in {folder} is not the file that was written")
    return data


def write_classifier(folder: Path, draft: ClassifierManifest, files: Mapping[str, bytes]) -> ClassifierManifest:
    """Writes the files, then the manifest with their digests."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = draft.model_copy(update={"files": digests})
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest
