"""Loads a data set as uint8 tensors: CIFAR-10, or a user's folder of images.

`<datasets>/cifar10/` is CIFAR-10, downloaded on first use. docs/reference/data-sets.md says what a user's folder
`<datasets>/<name>/` may hold. Its images are decoded once, into a file that is memory-mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from services.trainer.data.cache import PackedCache
from services.trainer.data.packing import PackedLabels, Pixels, Preprocessing, pack_in_memory
from services.trainer.data.streaming import ImageStream
from shared.configs.reading import OnBadFile
from shared.datasets.layouts import Split, scan
from shared.datasets.report import DatasetReport, OnProgress
from shared.datasets.text import counted, listed, quoted
from shared.errors import DISK_FULL, BadDataset

CIFAR10_FOLDER = "cifar-10-batches-py"
HASHED_IMAGES = 4096  # at a time, so that the digest of a memory-mapped set needs little memory
NAMED_FILES = 20  # damaged files that an error names; the report names all

DEFAULT_PREPROCESSING = Preprocessing()


@dataclass(frozen=True)
class ImageDataset:
    """images uint8 [N, C, H, W], labels int64 [N] into `classes`.

    Both are on the device that trains, unless the images do not fit there: then they stay on the CPU, and `stream`
    brings batches of them to the device.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING
    report: DatasetReport | None = None  # on the folder; None for CIFAR-10
    file: Pixels | None = None  # the same images in their memory-mapped file, if they come from one
    stream: ImageStream | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @cached_property
    def present_labels(self) -> Tensor:
        """The labels that at least one image has, in order."""
        return torch.tensor(sorted(set(self.labels.tolist())), device=self.device)

    def gather(self, indices: Tensor) -> Tensor:
        """The images at these indices [N], on the CPU, on the device. -> uint8 [N, C, H, W]"""
        return self.images[indices.to(self.device)] if self.stream is None else self.stream.take(indices)

    def prefetch(self, indices: Tensor) -> None:
        """Starts to bring the images at these indices [N], on the CPU, to the device, if they are streamed."""
        if self.stream is not None:
            self.stream.prefetch(indices)

    def to(self, device: torch.device, limit_bytes: int | None = None) -> ImageDataset:
        """The data set on another device. Images beyond `limit_bytes` are streamed to it, batch by batch."""
        labels = self.labels.to(device)
        if limit_bytes is None or self.images.numel() <= limit_bytes:
            return replace(self, images=self.images.to(device), labels=labels, stream=None)
        images = self.images.cpu().numpy() if self.file is None else self.file
        return replace(self, labels=labels, stream=ImageStream(images, device, limit_bytes))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images and labels in order, `size` at a time, each where it is stored."""
        for images, labels in zip(torch.split(self.images, size), torch.split(self.labels, size), strict=True):
            yield images, labels
            if self.stream is not None:
                self.stream.release_pages(images.numel())

    def of_class(self, label: int) -> ImageDataset:
        """The images of one class, as a data set of its own with the label 0."""
        own = self.labels == label
        images = self.images[own.to(self.images.device)]
        labels = torch.zeros_like(self.labels[own])
        subset = ImageDataset(images, labels, (self.classes[label],), self.preprocessing, self.report)
        return subset if self.stream is None else subset.to(self.device, self.stream.limit_bytes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the images, their labels and the names of the classes."""
        digest = hashlib.sha256(repr((self.classes, tuple(self.images.shape))).encode())
        for images, _ in self.batches(HASHED_IMAGES):
            digest.update(images.cpu().contiguous().numpy().tobytes())
        digest.update(self.labels.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def ignore_progress(count: int, total: int) -> None:
    """Does nothing."""


def load_dataset(
    root: Path,
    name: str,
    split: Split = "train",
    *,
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING,
    on_bad_file: OnBadFile = "fail",
    cache: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> ImageDataset:
    """Reads `<root>/<name>`. Raises BadDataset if it is missing, empty or, with `on_bad_file` fail, has damaged files.

    Decoded images of a folder are kept in `cache`, and memory-mapped. `on_progress` is called after each file that is
    decoded; both splits are decoded together.
    """
    if name == "cifar10":
        return _load_cifar10(root / name, split, preprocessing)
    images, packed = _load_folder(root / name, preprocessing, cache, on_progress)
    _check_files(name, packed.report, on_bad_file)
    rows = slice(packed.train) if split == "train" else slice(packed.train, None)
    labels = torch.tensor(packed.labels[rows], dtype=torch.int64)
    if not len(labels):
        raise BadDataset(f"data set {name} has no {split} split; put images into {root / name / split}/<class>")
    file = images[rows] if isinstance(images, np.memmap) else None
    tensor, report = torch.from_numpy(images[rows]), packed.report
    return ImageDataset(tensor, labels, report.classes, preprocessing, report, file)


def load_test_split(
    root: Path,
    name: str,
    classes: tuple[str, ...],
    *,
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING,
    cache: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> ImageDataset:
    """The test images, with labels into `classes` by class name. Some classes may have no test image.

    Skips damaged files: loading the training images has reported those of both splits. Raises BadDataset if there is
    no test split, or if it has images of a class that is not in `classes`.
    """
    test = load_dataset(
        root, name, "test", preprocessing=preprocessing, on_bad_file="skip", cache=cache, on_progress=on_progress
    )
    present = [test.classes[label] for label in sorted(set(test.labels.tolist()))]
    if unknown := [label for label in present if label not in classes]:
        raise BadDataset(
            f"the test split of data set {name} has images of classes that were not trained: {quoted(unknown)}; the "
            f"training classes are {quoted(classes)}"
        )
    positions = torch.tensor([classes.index(label) if label in classes else -1 for label in test.classes])
    return replace(test, labels=positions[test.labels], classes=classes)


def has_test_split(root: Path, name: str) -> bool:
    """Whether the data set has test images of its own, or images that are held out. Raises BadDataset."""
    return name == "cifar10" or bool(scan(root / name).of_split("test"))


def _load_cifar10(folder: Path, split: Split, preprocessing: Preprocessing) -> ImageDataset:
    is_present = (folder / CIFAR10_FOLDER).is_dir()
    try:
        source = datasets.CIFAR10(str(folder), train=split == "train", download=not is_present)
    except RuntimeError as error:
        raise BadDataset(
            f"CIFAR-10 in {folder} fails torchvision's integrity check ({error}); "
            f"delete {folder / CIFAR10_FOLDER} to download it again"
        ) from error
    except (URLError, OSError) as error:
        raise BadDataset(f"CIFAR-10 is not in {folder} and could not be downloaded into it: {error}") from error
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()  # [N, H, W, C] -> [N, C, H, W]
    if preprocessing.shape != (3, 32, 32):
        images = _resized(source.data, preprocessing)
    return ImageDataset(images, torch.tensor(source.targets), tuple(source.classes), preprocessing)


def _resized(images: Pixels, preprocessing: Preprocessing) -> Tensor:
    """Images [N, H, W, 3] at the resolution and with the channels of the networks. -> [N, C, H, W]"""
    resized = np.empty((len(images), *preprocessing.shape), dtype=np.uint8)
    for row, image in zip(resized, images, strict=True):
        row[...] = preprocessing.apply(Image.fromarray(image))
    return torch.from_numpy(resized)


def _load_folder(
    folder: Path, preprocessing: Preprocessing, cache: Path | None, on_progress: OnProgress
) -> tuple[Pixels, PackedLabels]:
    """The pixels of all images [N, C, H, W], training images first, and their labels."""
    layout = scan(folder)
    if cache is None:
        return pack_in_memory(layout, preprocessing, on_progress)
    packed_cache = PackedCache(cache, layout, preprocessing)
    if (cached := packed_cache.read()) is not None:
        return cached
    try:
        packed_cache.write(on_progress)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        return pack_in_memory(layout, preprocessing, on_progress)
    if (cached := packed_cache.read()) is not None:
        return cached
    return pack_in_memory(layout, preprocessing, on_progress)  # another process has replaced the file meanwhile


def _check_files(name: str, report: DatasetReport, on_bad_file: OnBadFile) -> None:
    """Raises BadDataset for damaged files that must not be skipped, and for classes that have no image left."""
    if report.damaged and on_bad_file == "fail":
        files = listed([f"{file.path} ({file.reason})" for file in report.damaged], NAMED_FILES)
        raise BadDataset(
            f"data set {name}: {counted(len(report.damaged), 'file')} cannot be read as an image: {files}. Repair or "
            "remove them, or train without them by on_bad_file=skip"
        )
    if empty := [label for label, count in report.counts["train"].items() if not count]:
        raise BadDataset(f"data set {name}: no image of the classes {quoted(empty)} can be read")
