"""Caches the features of real images on disk, one file per network and data set."""

from __future__ import annotations

import io

import numpy as np
import torch

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.extractor import Extracted, Extractor, OnBatch, batches_of, extract, ignore_batch
from shared.storage.artifacts import ArtifactStore

_COLUMNS = ("features", "logits", "labels")


def real_features(
    extractor: Extractor, dataset: ImageDataset, cache: ArtifactStore, on_batch: OnBatch = ignore_batch
) -> Extracted:
    """Features of the data set's images, from the cache if present."""
    key = f"features/{extractor.name}-{extractor.digest[:16]}-{dataset.digest[:16]}.npz"
    try:
        return _unpack(cache.read(key))
    except (FileNotFoundError, ValueError):  # not cached yet, or damaged
        extracted = extract(extractor, batches_of(dataset), on_batch)
        cache.write(key, _pack(extracted))
        return extracted


def _pack(extracted: Extracted) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(extracted, name).numpy() for name in _COLUMNS})
    return buffer.getvalue()


def _unpack(data: bytes) -> Extracted:
    """The inverse of `_pack`. Raises ValueError for other bytes; numpy does not load pickles by default."""
    try:
        with np.load(io.BytesIO(data)) as arrays:
            return Extracted(*(torch.from_numpy(arrays[name]) for name in _COLUMNS))
    except Exception as error:  # zipfile, zlib and numpy raise different types
        raise ValueError(f"not a cache of features: {error}") from error
