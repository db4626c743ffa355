"""Chooses the images of each batch: a new permutation of the data set in every epoch, or each class equally often."""

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
            generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
        return self._order


class BalancedSampler(Sampler):
    """Draws each class equally often. Images come in rounds of one image of every class, in random order.

    The images of a class come in permutations of their own, so that all of them are drawn before one comes again. An
    epoch has as many images as the data set, rounded up to whole rounds.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        """`labels`: [N] on the CPU. Classes without images are never drawn."""
        members = [(labels == label).nonzero()[:, 0] for label in sorted(set(labels.tolist()))]
        self._rounds = -(-len(labels) // len(members))
        self._members = members
        # A seed per class: the permutations of equally large classes must differ.
        self._samplers = [Sampler(len(own), _mixed(seed, number)) for number, own in enumerate(members, 1)]
        super().__init__(self._rounds * len(members), seed)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            first = epoch * self._rounds
            drawn = zip(self._members, self._samplers, strict=True)
            columns = [own[sampler.batch(first, self._rounds)] for own, sampler in drawn]
            generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
            order = torch.rand(self._rounds, len(columns), generator=generator).argsort(1)
            self._epoch, self._order = epoch, torch.stack(columns, 1).gather(1, order).flatten()
        return self._order


def make_sampler(labels: Tensor, seed: int, *, balance_classes: bool) -> Sampler:
    return BalancedSampler(labels.cpu(), seed) if balance_classes else Sampler(len(labels), seed)


def _mixed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] % sys.maxsize)
