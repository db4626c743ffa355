"""Features of real images, computed once for each network and data set, then read from the data folder."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import torch

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.extractor import Extracted, Extractor, Hear, batches_of, extract, hear_nothing
from shared.storage.artifacts import ArtifactStore

_COLUMNS = ("features", "logits", "labels")


def dataset_digest(dataset: ImageDataset) -> str:
    """SHA-256 of the images, their labels and the names of the classes."""
    digest = hashlib.sha256(repr((dataset.classes, tuple(dataset.images.shape))).encode())
    for tensor in (dataset.images, dataset.labels):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def real_features(
    extractor: Extractor, dataset: ImageDataset, cache: ArtifactStore, hear: Hear = hear_nothing
) -> Extracted:
    """What the extractor makes of the data set; from the cache if it was asked before."""
    key = f"features/{extractor.name}-{extractor.digest[:16]}-{dataset_digest(dataset)[:16]}.npz"
    try:
        return _unpack(cache.read(key))
    except (FileNotFoundError, ValueError):  # never asked, or a file that is no whole .npz of ours
        found = extract(extractor, batches_of(dataset), hear)
        cache.write(key, _pack(found))
        return found


def _pack(extracted: Extracted) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(extracted, name).numpy() for name in _COLUMNS})
    return buffer.getvalue()


def _unpack(data: bytes) -> Extracted:
    """Raises ValueError when the bytes are not what `_pack` made; numpy loads no pickles unless told to."""
    try:
        with np.load(io.BytesIO(data)) as arrays:
            return Extracted(*(torch.from_numpy(arrays[name]) for name in _COLUMNS))
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ValueError(f"not a cache of features: {error}") from error
