"""One generator per class, behind the signature of a single generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class PerClassGenerator(nn.Module):
    """(z [N, latent], labels [N]) -> images [N, C, H, W]. Part `labels[i]` makes image i; without it, it is grey."""

    def __init__(self, parts: Sequence[nn.Module], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.parts, self.image_shape = nn.ModuleList(parts), image_shape

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        images = z.new_zeros(len(z), *self.image_shape)
        for label, part in enumerate(self.parts):
            own = labels == label
            if own.any():
                images[own] = cast(Tensor, part(z[own], torch.zeros_like(labels[own])))
        return images
