"""Loads a data set into memory as uint8 tensors: CIFAR-10, or a user's folder with one sub-folder per class.

`<datasets>/cifar10/` is CIFAR-10, downloaded on first use. `<datasets>/<name>/train/<class>/*` is a user's data set;
its images may have any size and are resized and cropped to 32x32. `<datasets>/<name>/test/<class>/*` is optional.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision import datasets

from services.trainer.data.cache import ImageCache
from services.trainer.data.decode import read_image
from services.trainer.networks.build import IMAGE_SIZE
from shared.errors import BadDataset, escape

Split = Literal["train", "test"]
CIFAR10_FOLDER = "cifar-10-batches-py"

OnProgress = Callable[[int, int], None]  # (files read, files in total)


@dataclass(frozen=True)
class ImageDataset:
    """images uint8 [N, 3, 32, 32], labels int64 [N] into `classes`."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageDataset:
        return ImageDataset(self.images.to(device), self.labels.to(device), self.classes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the images, their labels and the names of the classes."""
        digest = hashlib.sha256(repr((self.classes, tuple(self.images.shape))).encode())
        for tensor in (self.images, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def ignore_progress(count: int, total: int) -> None:
    """Does nothing."""


def load_dataset(
    root: Path,
    name: str,
    split: Split = "train",
    *,
    cache: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> ImageDataset:
    """Reads `<root>/<name>`. Raises BadDataset if it is missing, damaged or empty.

    Decoded images of a folder are kept in `cache`. `on_progress` is called after each file that is decoded.
    """
    if name == "cifar10":
        return _load_cifar10(root / name, split)
    return _load_folder(root / name / split, None if cache is None else ImageCache(cache), on_progress)


def load_test_split(
    root: Path,
    name: str,
    classes: tuple[str, ...],
    *,
    cache: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> ImageDataset:
    """The test images, with labels into `classes` by class name. Some classes may have no test image.

    Raises BadDataset if there is no test split, or if it has a class that is not in `classes`.
    """
    test = load_dataset(root, name, "test", cache=cache, on_progress=on_progress)
    if unknown := [label for label in test.classes if label not in classes]:
        raise BadDataset(
            f"the test split of data set {name} has classes that its training split lacks: {_quoted(unknown)}. "
            f"Rename or remove these folders; the training classes are {_quoted(classes)}"
        )
    positions = torch.tensor([classes.index(label) for label in test.classes])
    return replace(test, labels=positions[test.labels], classes=classes)


def has_test_split(root: Path, name: str) -> bool:
    return name == "cifar10" or (root / name / "test").is_dir()


def _load_cifar10(folder: Path, split: Split) -> ImageDataset:
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
    return ImageDataset(images, torch.tensor(source.targets), tuple(source.classes))


def _load_folder(folder: Path, cache: ImageCache | None, on_progress: OnProgress) -> ImageDataset:
    if not folder.is_dir():
        raise BadDataset(f"no data set at {folder}; expected a folder with one sub-folder of images per class")
    try:
        source = datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise BadDataset(f"data set {folder}: {error}") from error
    if unreadable := [name for name in source.classes if escape(name) != name]:
        # A model's manifest, events and URLs are UTF-8 and could not name this class.
        raise BadDataset(f"data set {folder}: class names must be UTF-8; rename the folder {_quoted(unreadable)}")
    files = [Path(path) for path, _ in source.samples]
    images = None if cache is None else cache.read(folder, files, IMAGE_SIZE)
    if images is None:
        images = _decode(files, on_progress)
        if cache is not None:
            cache.write(folder, files, images)
    return ImageDataset(images, torch.tensor(source.targets), tuple(source.classes))


def _decode(files: Sequence[Path], on_progress: OnProgress) -> Tensor:
    """uint8 [N, 3, 32, 32]"""
    images = torch.empty(len(files), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for i, image in enumerate(pool.map(read_image, files)):
            images[i] = image
            on_progress(i + 1, len(files))
    return images


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{escape(name)}'" for name in names)
