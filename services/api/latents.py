"""Latent vectors by counter: image i of seed s depends on (s, i) alone, whatever else is drawn with it."""

from __future__ import annotations

from collections.abc import Iterable

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
    return np.stack([_draw(seed, index, latent_dim, truncation) for index in indices])


def _draw(seed: int, index: int, latent_dim: int, truncation: float | None) -> NDArray[np.float32]:
    # Philox is a counter-based generator (Salmon et al. 2011): another key is another stream, at no cost of skipping.
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
    z = rng.standard_normal(latent_dim, dtype=np.float32)
    if truncation is not None:
        while (outside := np.abs(z) > truncation).any():
            z[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32)
    return z
