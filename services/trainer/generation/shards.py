"""Packs the images of a shard: a ZIP with a folder per class, or a tar in the layout of WebDataset.

The same images give the same bytes: no time, no owner, no compression outside of the PNG files.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.generator.png import encode_png
from services.trainer.generation.images import ImageMaker
from services.trainer.generation.selection import NO_CLASS, THRESHOLD, Selected
from shared.configs.generate import DatasetFormat, GenerateConfig

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP can hold

EncodedImage = tuple[Selected, bytes]


class ImageEncoder:
    """Writes the PNG files, each with what /generate writes into a file of this image alone, so that /verify works."""

    def __init__(self, config: GenerateConfig, maker: ImageMaker) -> None:
        self._compress, self._classifier = config.compress, maker.classifier
        self._common: dict[str, Any] = {
            "model": config.model, "digest": config.model_digest, "seed": config.seed, "truncation": config.truncation,
            "n": 1, "columns": None, "scale": 1, "compress": config.compress,
        }  # fmt: skip
        self._is_by_rejection = bool(config.classes) and not maker.manifest.conditional
        if self._is_by_rejection:
            threshold = config.min_confidence or THRESHOLD
            self._common |= {"class_method": "classifier", "threshold": threshold}
        elif config.classes:
            self._common["class_method"] = "per-class" if maker.manifest.config.per_class else "conditional"

    def encode(self, images: Sequence[Selected]) -> list[EncodedImage]:
        return [(image, encode_png(image.pixels, self._provenance(image), self._compress)) for image in images]

    def _provenance(self, image: Selected) -> dict[str, Any]:
        own = {"class": None if image.name == NO_CLASS else image.name, "first_index": image.index}
        if not self._is_by_rejection:
            return self._common | own
        assert self._classifier is not None
        assert image.confidence is not None
        return self._common | own | {
            "indices": [image.draw], "draws": image.draw + 1, "classifier": self._classifier.digest,
            "confidences": [round(image.confidence, 4)],
        }  # fmt: skip


def pack_zip(images: Sequence[EncodedImage], config: GenerateConfig, first: int) -> bytes:
    """`<class>/<seed>-<index>.png`; without classes, all files lie at the top."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for image, png in images:
            folder = "" if image.name == NO_CLASS else f"{folder_name(image.name)}/"
            archive.writestr(zipfile.ZipInfo(f"{folder}{config.seed}-{image.index:06d}.png", _EPOCH), png)
    return buffer.getvalue()


def pack_tar(images: Sequence[EncodedImage], config: GenerateConfig, first: int) -> bytes:
    """`<seed>-<number>.png`, `.cls` and `.json` of each sample; a number is a position in the data set."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (image, png) in enumerate(images, first):
            description = {
                "class": image.name or None,
                "index": image.index,
                "seed": config.seed,
                "model": config.model,
            }
            parts = {"png": png, "json": json.dumps(description | _confidence(image), ensure_ascii=False).encode()}
            if image.label is not None:
                parts["cls"] = str(image.label).encode()
            for suffix, data in parts.items():
                entry = tarfile.TarInfo(f"{config.seed}-{number:09d}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


PACKERS: Mapping[DatasetFormat, Callable[[Sequence[EncodedImage], GenerateConfig, int], bytes]] = {
    "imagefolder": pack_zip, "webdataset": pack_tar,
}  # fmt: skip


def folder_name(name: str) -> str:
    """The class as the name of a folder, which every file system accepts."""
    safe = "".join("_" if character in '<>:"/\\|?*' or ord(character) < 32 else character for character in name)
    return safe.rstrip(". ") or "_"


def _confidence(image: Selected) -> dict[str, float]:
    return {} if image.confidence is None else {"confidence": round(image.confidence, 4)}
