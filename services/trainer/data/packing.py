"""Decodes all images of a data set's folder once, into one array of the networks' resolution, and reports on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from shared.configs.classifier import ClassifierConfig
from shared.configs.reading import Crop
from shared.configs.train import TrainConfig
from shared.datasets.decode import WHITE, BadImage, Colour, decode, read_bytes
from shared.datasets.layouts import ImageFile, Layout
from shared.datasets.pixels import Channels, to_pixels
from shared.datasets.report import DatasetReport, FileFacts, OnProgress, ReportBuilder, facts_of, in_order

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a folder become pixels for the networks."""

    resolution: int = 32
    channels: Channels | None = 3  # None: 1 if all images are grey, otherwise 3
    crop: Crop = "centre"
    background: Colour = WHITE

    @classmethod
    def of(cls, config: TrainConfig | ClassifierConfig) -> Self:
        red, green, blue = ImageColor.getrgb(config.background)[:3]
        channels = config.channels if isinstance(config, TrainConfig) else 3  # the classifier knows colour only
        return cls(config.resolution, channels, config.crop, (red, green, blue))

    def apply(self, image: Image.Image) -> Pixels:
        return to_pixels(image, self.resolution, self.channels or 3, self.crop, self.background)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image before grey data sets are reduced to one channel: [C, H, W]."""
        return self.channels or 3, self.resolution, self.resolution


@dataclass(frozen=True)
class PackedLabels:
    """What belongs to the rows of a packed array: training images first, then test images."""

    labels: list[int]
    train: int  # number of training images
    report: DatasetReport


def pack(
    layout: Layout, preprocessing: Preprocessing, append: Callable[[Pixels], object], on_progress: OnProgress
) -> PackedLabels:
    """Calls `append` with the pixels [C, H, W] of each image that can be read, in the layout's order.

    Damaged files are in the report. Raises OSError for files that cannot be read from their disk.
    """
    builder, labels, train = ReportBuilder(layout), list[int](), 0
    for count, (file, facts, pixels) in enumerate(_decoded(layout, preprocessing), 1):
        builder.add(file, facts)
        if pixels is not None:
            append(pixels)
            labels.append(file.label)
            train += file.split == "train"
        on_progress(count, len(layout.files))
    return PackedLabels(labels, train, builder.build())


def pack_in_memory(
    layout: Layout, preprocessing: Preprocessing, on_progress: OnProgress
) -> tuple[Pixels, PackedLabels]:
    """The pixels of all images [N, C, H, W], and what they are."""
    images = np.empty((len(layout.files), *preprocessing.shape), dtype=np.uint8)
    rows = iter(images)

    def append(pixels: Pixels) -> None:
        next(rows)[...] = pixels

    packed = pack(layout, preprocessing, append, on_progress)
    images = images[: len(packed.labels)]
    is_reduced = preprocessing.channels is None and packed.report.channels == 1
    return (np.ascontiguousarray(images[:, :1]) if is_reduced else images), packed


def _decoded(
    layout: Layout, preprocessing: Preprocessing
) -> Iterator[tuple[ImageFile, FileFacts | BadImage, Pixels | None]]:
    def read(file: ImageFile) -> tuple[FileFacts | BadImage, Pixels | None]:
        try:
            data = read_bytes(layout.folder / file.name)
            decoded = decode(data, preprocessing.background)
        except BadImage as problem:
            return problem, None
        return facts_of(data, decoded), preprocessing.apply(decoded.image)

    with ThreadPoolExecutor() as pool:
        for file, (facts, pixels) in in_order(pool, read, layout.files):
            yield file, facts, pixels
