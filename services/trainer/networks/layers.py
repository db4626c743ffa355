"""Layers that several networks share: batch norm by class, and spectral norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose scale and shift are looked up by class; Dumoulin et al. 2017, arXiv:1610.07629, eq. 5.

    With `num_classes=None` it is plain batch norm, and the labels are ignored.
    """

    def __init__(self, channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=num_classes is None)
        self.scale = self.shift = None
        if num_classes is not None:
            self.scale = nn.Embedding(num_classes, channels)
            self.shift = nn.Embedding(num_classes, channels)
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = self.norm(x)
        if self.scale is None or self.shift is None:
            return x
        # In the images' precision: fp32 scales would raise everything that follows to fp32.
        scale, shift = self.scale(labels).to(x.dtype), self.shift(labels).to(x.dtype)  # [N, C] each
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


def add_spectral_norm(network: nn.Module) -> None:
    """Divides each weight by its spectral norm; one power iteration per step (Miyato et al., arXiv:1802.05957, eq. 8).

    Weights must be initialised before: the power iteration needs a nonzero weight.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            spectral_norm(module)
