"""Finds the class names of a data set from folders, the classifier or models, without reading its images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from shared.datasets.layouts import scan
from shared.errors import BadDataset, CorruptArtifact, InvalidInput, UnknownClassifier, did_you_mean
from shared.storage.classifier_files import read_manifest
from shared.storage.datasets import PushedDatasets, dataset_exists, dataset_names, find_folder
from shared.storage.model_registry import ModelRegistry


@dataclass(frozen=True)
class ClassNames:
    """Sources of class names. The API may lack the data folder of its workers, so models and the classifier help."""

    dataset_root: Path
    pushed: PushedDatasets
    classifier_folder: Path
    registry: ModelRegistry

    def require_dataset(self, dataset: str) -> None:
        """Raises InvalidInput for a name that no data set has.

        Without a folder of data sets the API cannot know: its workers may have one.
        """
        if self.dataset_root.is_dir() and not dataset_exists(dataset, self.dataset_root, self.pushed):
            names = dataset_names(self.dataset_root, self.pushed)
            message = f"there is no such data set{did_you_mean(dataset, names)}; there are {', '.join(names)}"
            raise InvalidInput.of("dataset", dataset, message)

    def of_dataset(self, dataset: str) -> tuple[str, ...] | None:
        """None if no source has the data set; then the trainer is the first to check its classes."""
        if self.pushed.exists(dataset):
            return self.pushed.get(dataset).report.classes
        folder = find_folder(self.dataset_root, dataset) / "train"
        if folder.is_dir():
            return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
        trained_on, classes = self._classifier()
        if trained_on == dataset:
            return classes
        newest_first = self.registry.list()
        return next((manifest.classes for manifest in newest_first if manifest.dataset == dataset), None)

    def class_counts(self, dataset: str) -> dict[str, int] | None:
        """Training images of each class, counted by file names; None if the API does not have the data set."""
        if self.pushed.exists(dataset):
            return self.pushed.get(dataset).report.counts.get("train", {})
        try:
            layout = scan(find_folder(self.dataset_root, dataset))
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
