"""Several generators behind one signature: each makes the images of its own class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class PerClassGenerator(nn.Module):
    """(z [N, latent], labels [N]) -> images [N, 3, 32, 32]; image i is by `parts[labels[i]]`, grey if there is none."""

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
