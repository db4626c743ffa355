"""Draws latent vectors with a counter-based generator: the vector of image i of seed s depends on (s, i) alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**63 - 1


class Latent(NamedTuple):
    """Identifies the latent vector of an image: number `start` of the stream `seed`.

    With `truncation`, values further from zero are drawn again from the same stream (Brock et al. 2019,
    arXiv:1809.11096, section 3.1). With `end`, the vector lies on the great circle from number `start` to number `end`,
    at `position` from 0 to 1.
    """

    seed: int
    start: int
    truncation: float | None = None
    end: int | None = None
    position: float = 0.0


def stream_of(seed: int, indices: Iterable[int], truncation: float | None = None) -> list[Latent]:
    """The latents of the images `indices` of a seed."""
    return [Latent(seed, index, truncation) for index in indices]


def draw_latents(latents: Sequence[Latent], latent_dim: int) -> NDArray[np.float32]:
    """The vectors themselves, standard normal before truncation. -> [N, latent_dim]"""
    z = np.empty((len(latents), latent_dim), dtype=np.float32)
    for row, latent in zip(z, latents, strict=True):
        _fill(row, latent.seed, latent.start, latent.truncation)
        if latent.end is not None:
            last = np.empty_like(row)
            _fill(last, latent.seed, latent.end, latent.truncation)
            row[:] = slerp(row, last, latent.position)
    return z


def _fill(row: NDArray[np.float32], seed: int, index: int, truncation: float | None) -> None:
    rng = _streams.start(seed, index)
    rng.standard_normal(dtype=np.float32, out=row)
    if truncation is not None:
        while (outside := np.abs(row) > truncation).any():
            row[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32)


class _Streams(threading.local):
    """One generator per thread, set to the start of the requested stream.

    Philox is a counter-based generator (Salmon et al. 2011): each key has its own stream, and no values are skipped.
    NumPy takes 80 times as long to create a generator as to reset this one.
    """

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        self._rng = np.random.Generator(self._philox)
        self._initial_state: Any = self._philox.state
        self._key: NDArray[np.uint64] = self._initial_state["state"]["key"]

    def start(self, seed: int, index: int) -> np.random.Generator:
        self._key[0], self._key[1] = seed, index
        self._philox.state = self._initial_state
        return self._rng


_streams = _Streams()


def slerp(start: NDArray[np.float32], end: NDArray[np.float32], position: float) -> NDArray[np.float32]:
    """The point at `position` (0 to 1) on the great circle from one vector to another; Shoemake 1985. -> [latent_dim]

    A straight line between normal vectors would pass through shorter vectors than the model has seen in training.
    """
    if position in (0.0, 1.0):
        return end if position else start
    a, b = start.astype(np.float64), end.astype(np.float64)
    cosine = a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:  # parallel or opposite vectors: no great circle is unique
        return ((1 - position) * a + position * b).astype(np.float32)
    weights = np.sin((1 - position) * angle), np.sin(position * angle)
    point: NDArray[np.float32] = ((weights[0] * a + weights[1] * b) / np.sin(angle)).astype(np.float32)
    return point
