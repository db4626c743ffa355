"""Latent vectors by counter: image i of seed s depends on (s, i) alone, whatever else is drawn with it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**63 - 1


def draw_latents(
    seed: int, indices: Iterable[int], latent_dim: int, truncation: float | None = None
) -> NDArray[np.float32]:
    """Standard normal vectors, one independent stream per image. -> [N, latent_dim]

    With `truncation`, values further from zero than that are drawn again from the same stream (Brock et al. 2019,
    arXiv:1809.11096, section 3.1).
    """
    indices = tuple(indices)
    z = np.empty((len(indices), latent_dim), dtype=np.float32)
    for row, index in zip(z, indices, strict=True):
        fill_latent(row, seed, index, truncation)
    return z


def fill_latent(row: NDArray[np.float32], seed: int, index: int, truncation: float | None = None) -> None:
    """The same for one image, into a row that is there already."""
    rng = _stream.start(seed, index)
    rng.standard_normal(dtype=np.float32, out=row)
    if truncation is not None:
        while (outside := np.abs(row) > truncation).any():
            row[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32)


class _Stream(threading.local):
    """One generator per thread, set to the beginning of the stream that is wanted.

    Philox is a counter-based generator (Salmon et al. 2011): another key is another stream, at no cost of skipping.
    numpy takes 80 times as long to make a new one as to set this one back.
    """

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._rng = np.random.Generator(self._philox)
        self._beginning: Any = self._philox.state
        self._key: NDArray[np.uint64] = self._beginning["state"]["key"]

    def start(self, seed: int, index: int) -> np.random.Generator:
        self._key[0], self._key[1] = seed, index
        self._philox.state = self._beginning
        return self._rng


_stream = _Stream()


def slerp(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Along the great circle from one vector to the other, both included; Shoemake 1985. -> [steps, latent_dim]

    Between normal vectors the straight line would pass through vectors that are shorter than any the model has seen.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    t = np.linspace(0.0, 1.0, steps)[:, None]
    cosine = a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # the same direction, or the opposite one, between which no circle is the right one
        return ((1 - t) * a + t * b).astype(np.float32)
    path: NDArray[np.float32] = ((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)).astype(
        np.float32
    )
    path[0], path[-1] = start, end
    return path
