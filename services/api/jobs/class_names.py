"""Finds the class names of a data set from folders, the classifier or models, without reading its images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from shared.datasets.layouts import scan
from shared.errors import BadDataset, CorruptArtifact, UnknownClassifier
from shared.storage.classifier_files import read_manifest
from shared.storage.model_registry import ModelRegistry


@dataclass(frozen=True)
class ClassNames:
    """Sources of class names. The API may lack the data folder of its workers, so models and the classifier help."""

    dataset_root: Path
    classifier_folder: Path
    registry: ModelRegistry

    def of_dataset(self, dataset: str) -> tuple[str, ...] | None:
        """None if no source has the data set; then the trainer is the first to check its classes."""
        folder = self.dataset_root / dataset / "train"
        if folder.is_dir():
            return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
        trained_on, classes = self._classifier()
        if trained_on == dataset:
            return classes
        newest_first = self.registry.list()
        return next((manifest.classes for manifest in newest_first if manifest.dataset == dataset), None)

    def class_counts(self, dataset: str) -> dict[str, int] | None:
        """Training images of each class, counted by file names; None if the API has no such folder of images."""
        try:
            layout = scan(self.dataset_root / dataset)
        except (BadDataset, OSError):
            return None
        counts = Counter(file.label for file in layout.of_split("train"))
        return {name: counts[label] for label, name in enumerate(layout.classes)}

    def of_classifier(self) -> tuple[str, ...]:
        """Empty without a readable classifier."""
        return self._classifier()[1]

    def _classifier(self) -> tuple[str | None, tuple[str, ...]]:
        try:
            manifest = read_manifest(self.classifier_folder)
        except (UnknownClassifier, CorruptArtifact):
            return None, ()
        return manifest.dataset, manifest.classes


def shown(classes: tuple[str, ...], limit: int = 10) -> str:
    """`3 classes: ant, bee, wasp`, shortened after `limit` names"""
    names = ", ".join(classes[:limit]) + (", …" if len(classes) > limit else "")
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}: {names}"
