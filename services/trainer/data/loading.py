"""Loads the images of a data set by its name, wherever they are: CIFAR-10, a folder, or a pushed data set."""

from __future__ import annotations

from services.trainer.data.datasets import ImageDataset, has_test_split, ignore_progress, load_dataset, load_test_split
from services.trainer.data.packing import Preprocessing
from services.trainer.data.pushed import locate_dataset
from shared.configs.reading import OnBadFile
from shared.datasets.report import OnProgress
from shared.settings import Settings


def load_training_images(
    name: str,
    settings: Settings,
    preprocessing: Preprocessing,
    on_bad_file: OnBadFile,
    on_progress: OnProgress = ignore_progress,
) -> ImageDataset:
    """On the CPU. Raises BadDataset, EnvironmentFailed, OSError."""
    folder, cache = locate_dataset(name, settings), settings.data / "cache"
    return load_dataset(
        folder.parent, folder.name, preprocessing=preprocessing, on_bad_file=on_bad_file, cache=cache,
        on_progress=on_progress,
    )  # fmt: skip


def load_test_images(
    name: str, training: ImageDataset, settings: Settings, on_progress: OnProgress = ignore_progress
) -> ImageDataset | None:
    """On the CPU, with the classes of the training images and read as they were; None without a test split.

    Raises BadDataset, EnvironmentFailed, OSError.
    """
    folder, cache = locate_dataset(name, settings), settings.data / "cache"
    if not has_test_split(folder.parent, folder.name):
        return None
    return load_test_split(
        folder.parent, folder.name, training.classes, preprocessing=training.preprocessing, cache=cache,
        on_progress=on_progress,
    )  # fmt: skip
