"""Data sets, packed once into uint8: CIFAR-10, or any folder of classes, both read by torchvision.

`<datasets>/cifar10/` is CIFAR-10 (downloaded into it on first use); `<datasets>/<name>/train/<class>/*` is one of the
user's own, whose images may have any size and are resized and cropped to 32x32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.transforms import v2

from services.trainer.networks.build import IMAGE_SIZE
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
    is_there = (folder / CIFAR10_FOLDER).is_dir()
    try:
        source = datasets.CIFAR10(str(folder), train=split == "train", download=not is_there)
    except RuntimeError as error:
        raise BadDataset(
            f"CIFAR-10 in {folder} fails torchvision's integrity check ({error}); "
            f"delete {folder / CIFAR10_FOLDER} to have it downloaded again"
        ) from error
    except (URLError, OSError) as error:
        raise BadDataset(f"CIFAR-10 is not in {folder} and could not be downloaded into it: {error}") from error
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()  # [N, H, W, C] -> [N, C, H, W]
    return ImageDataset(images, torch.tensor(source.targets), tuple(source.classes))


def _load_folder(folder: Path) -> ImageDataset:
    if not folder.is_dir():
        raise BadDataset(
            f"there is no data set at {folder}: a folder with one sub-folder of images per class is expected"
        )
    try:
        source = datasets.ImageFolder(str(folder), loader=_open_rgb, transform=_fit())
    except FileNotFoundError as error:
        raise BadDataset(f"data set {folder}: {error}") from error
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda i: source[i][0], range(len(source))))
    return ImageDataset(torch.stack(images), torch.tensor(source.targets), tuple(source.classes))


def _open_rgb(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything, SyntaxError among it
        raise BadDataset(f"{path} cannot be read as an image: {error}") from error


def _fit() -> Callable[[Image.Image], Tensor]:
    """Shorter side to 32 pixels, then the middle 32x32."""
    fit: Callable[[Image.Image], Tensor] = v2.Compose(
        [v2.Resize(IMAGE_SIZE), v2.CenterCrop(IMAGE_SIZE), v2.PILToTensor()]
    )
    return fit


class Sampler:
    """Which images make up a batch: a new permutation each epoch, a pure function of (seed, position).

    There is no state to save: `batch(nimg, n)` is the n images that follow the first `nimg` of the endless sequence.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, nimg: int, count: int) -> Tensor:
        """Indices [count] on the CPU."""
        parts = []
        while count > 0:
            epoch, start = divmod(nimg, self.size)
            part = self._permutation(epoch)[start : start + count]
            parts.append(part)
            nimg, count = nimg + len(part), count - len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            state = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0] % sys.maxsize))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
        return self._order
