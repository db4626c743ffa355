"""Finds the folder of a data set. A pushed one is unpacked on this machine first, once for all of its processes."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import CorruptArtifact, EnvironmentFailed, UnknownDataset
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.datasets import CIFAR10, PushedDataset, PushedDatasets, find_folder


def locate_dataset(name: str, settings: Settings) -> Path:
    """`<folder>` such that `load_dataset(folder.parent, folder.name)` reads the data set.

    Raises OSError; EnvironmentFailed if a pushed data set is damaged, or is deleted meanwhile.
    """
    pushed = PushedDatasets(ArtifactStore(settings.artifact_url))
    if name == CIFAR10 or not pushed.exists(name):
        return find_folder(settings.dataset_root, name)
    try:
        return _unpacked(pushed, pushed.get(name), settings.data / "cache" / "datasets")
    except CorruptArtifact as error:
        raise EnvironmentFailed(f"{error}; push it again") from error
    except UnknownDataset as error:
        raise EnvironmentFailed(f"{error}: it was deleted or replaced while it was being read") from error


def _unpacked(pushed: PushedDatasets, dataset: PushedDataset, cache: Path) -> Path:
    """`<cache>/<name>/<digest>/<name>`. Older versions, and data sets that do not exist any more, are removed."""
    folder = cache / dataset.name / dataset.digest[:32] / dataset.name
    with _locked(cache):
        if not folder.is_dir():
            _remove_unneeded(cache, set(pushed.names()) - {dataset.name})
            with tempfile.TemporaryDirectory(dir=cache, prefix=".unfinished-") as scratch:
                unfinished = Path(scratch) / dataset.name
                pushed.unpack(dataset, unfinished, Path(scratch) / "archive.tar")
                folder.parent.mkdir(parents=True)
                unfinished.replace(folder)
    return folder


def _remove_unneeded(cache: Path, names: set[str]) -> None:
    for path in cache.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Waits until no other process unpacks. The lock ends with its process."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
