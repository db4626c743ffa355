"""One generator per class, behind the signature of a single generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class PerClassGenerator(nn.Module):
    """(z [N, latent], labels [N]) -> images [N, 3, 32, 32]. Part `labels[i]` makes image i; without it, it is grey."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        images = z.new_zeros(len(z), 3, 32, 32)
        for label, part in enumerate(self.parts):
            own = labels == label
            if own.any():
                images[own] = cast(Tensor, part(z[own], torch.zeros_like(labels[own])))
        return images
