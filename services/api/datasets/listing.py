"""Lists the data sets: those that were pushed, and the folders below KILN_DATASETS."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from services.api.datasets.preview import draw_preview
from services.api.schemas.datasets import DatasetDetails, DatasetView
from shared.datasets.layouts import Layout, Split, scan
from shared.datasets.report import DatasetReport, report
from shared.errors import BadDataset, UnknownDataset, UnknownDatasetPreview
from shared.storage.datasets import CIFAR10, PushedDataset, PushedDatasets, dataset_names, find_folder, folders, slug

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_COUNTS: dict[Split, int] = {"train": 5000, "test": 1000}  # images of each class


@dataclass(frozen=True)
class DatasetCatalog:
    """All data sets that this server knows. A pushed one hides a folder of the same name."""

    root: Path
    pushed: PushedDatasets
    _reports: dict[str, tuple[str, DatasetReport]] = field(default_factory=dict)  # by name, with a key of the content
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def list(self) -> list[DatasetView]:
        """In the order of their names. Counts of folders are by file names, without reading the images."""
        views = {dataset.name: _of_pushed(dataset) for dataset in self.pushed.list()}
        views[CIFAR10] = _of_cifar10()
        for folder in folders(self.root):
            views.setdefault(slug(folder.name), _of_folder(folder))
        return [views[name] for name in sorted(views)]

    def details(self, name: str) -> DatasetDetails:
        """With the report on all images. Raises UnknownDataset."""
        name = slug(name)
        if name == CIFAR10:
            return DatasetDetails(**dict(_of_cifar10()), report=None)
        if self.pushed.exists(name):
            return self.of_pushed(self.pushed.get(name))
        view = _of_folder(folder := self._folder(name))
        if view.problem is not None:
            return DatasetDetails(**dict(view), report=None)
        facts = self._report(name, folder)
        return DatasetDetails(**dict(view) | {"counts": facts.counts, "images": facts.images}, report=facts)

    @staticmethod
    def of_pushed(dataset: PushedDataset) -> DatasetDetails:
        return DatasetDetails(**dict(_of_pushed(dataset)), report=dataset.report)

    def preview(self, name: str) -> bytes:
        """A PNG. Raises UnknownDataset; UnknownDatasetPreview for CIFAR-10, and for a folder that cannot be read."""
        name = slug(name)
        if self.pushed.exists(name):
            return self.pushed.preview(self.pushed.get(name))
        if name == CIFAR10:
            raise UnknownDatasetPreview(name)
        try:
            return draw_preview(scan(self._folder(name)))
        except (BadDataset, OSError):
            raise UnknownDatasetPreview(name) from None

    def _folder(self, name: str) -> Path:
        folder = find_folder(self.root, name)
        if not folder.is_dir():
            raise UnknownDataset(name, dataset_names(self.root, self.pushed))
        return folder

    def _report(self, name: str, folder: Path) -> DatasetReport:
        """The report on a folder. Every image is decoded for it, so it is kept until a file changes."""
        with self._lock:
            key = _content_key(scan(folder))
            known = self._reports.get(name)
            if known is None or known[0] != key:
                known = self._reports[name] = key, report(folder)
            return known[1]


def _of_pushed(dataset: PushedDataset) -> DatasetView:
    facts = dataset.report
    return DatasetView(
        name=dataset.name, display_name=dataset.display_name, source="pushed", classes=facts.classes,
        images=facts.images, counts=facts.counts, digest=dataset.digest, size_bytes=dataset.size_bytes,
        pushed_at=dataset.pushed_at, links=_links(dataset.name, has_preview=True),
    )  # fmt: skip


def _of_cifar10() -> DatasetView:
    counts: dict[Split, dict[str, int]] = {
        split: dict.fromkeys(CIFAR10_CLASSES, count) for split, count in CIFAR10_COUNTS.items()
    }
    return DatasetView(
        name=CIFAR10, display_name="CIFAR-10", source="folder", classes=CIFAR10_CLASSES,
        images=_total(counts), counts=counts, links=_links(CIFAR10, has_preview=False),
    )  # fmt: skip


def _of_folder(folder: Path) -> DatasetView:
    name = slug(folder.name)
    try:
        layout = scan(folder)
    except (BadDataset, OSError) as error:
        problem = str(error).replace(str(folder), name)
        return DatasetView(
            name=name, display_name=folder.name, source="folder", problem=problem, links=_links(name, has_preview=False)
        )
    counts = _counts(layout)
    return DatasetView(
        name=name, display_name=folder.name, source="folder", classes=layout.classes, images=_total(counts),
        counts=counts, links=_links(name, has_preview=True),
    )  # fmt: skip


def _counts(layout: Layout) -> dict[Split, dict[str, int]]:
    counts = Counter((file.split, file.label) for file in layout.files)
    splits = list(dict.fromkeys(file.split for file in layout.files))
    return {split: {name: counts[split, label] for label, name in enumerate(layout.classes)} for split in splits}


def _total(counts: dict[Split, dict[str, int]]) -> int:
    return sum(sum(by_class.values()) for by_class in counts.values())


def _links(name: str, *, has_preview: bool) -> dict[str, str]:
    links = {"self": f"/datasets/{name}"}
    return links | {"preview": f"/datasets/{name}/preview.png"} if has_preview else links


def _content_key(layout: Layout) -> str:
    digest = hashlib.sha256()
    for file in layout.files:
        status = (layout.folder / file.name).stat()
        digest.update(os.fsencode(f"\0{status.st_size} {status.st_mtime_ns} {file.name}"))
    return digest.hexdigest()
