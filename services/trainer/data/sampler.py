"""Chooses the images of each batch: a new permutation of the data set in every epoch."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor


class Sampler:
    """Indices of each batch as a pure function of (seed, position), so that a resumed run needs no saved state.

    `batch(nimg, n)` returns the n indices after the first `nimg` of an endless sequence of permutations.
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
