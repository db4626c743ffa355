"""Loads a data set into memory as uint8 tensors: CIFAR-10, or a user's folder with one sub-folder per class.

`<datasets>/cifar10/` is CIFAR-10, downloaded on first use. `<datasets>/<name>/train/<class>/*` is a user's data set;
its images may have any size and are resized and cropped to 32x32.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision import datasets

from services.trainer.data.decode import read_image
from shared.errors import BadDataset

Split = Literal["train", "test"]
CIFAR10_FOLDER = "cifar-10-batches-py"


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


def load_dataset(root: Path, name: str, split: Split = "train") -> ImageDataset:
    """Reads `<root>/<name>`. Raises BadDataset when it is missing, damaged or empty."""
    if name == "cifar10":
        return _load_cifar10(root / name, split)
    return _load_folder(root / name / split)


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


def _load_folder(folder: Path) -> ImageDataset:
    if not folder.is_dir():
        raise BadDataset(f"no data set at {folder}; expected a folder with one sub-folder of images per class")
    try:
        source = datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise BadDataset(f"data set {folder}: {error}") from error
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: read_image(Path(path)), [path for path, _ in source.samples]))
    return ImageDataset(torch.stack(images), torch.tensor(source.targets), tuple(source.classes))
