"""Layers shared by the families: those that know the class, and the normalisation of weights."""

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
        # In the precision of the images, which fp32 scales would otherwise raise for all that follows.
        scale, shift = self.scale(labels).to(x.dtype), self.shift(labels).to(x.dtype)  # [N, C] each
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


def add_spectral_norm(network: nn.Module) -> None:
    """Divides every weight by its spectral norm, one power iteration a step; Miyato et al., arXiv:1802.05957, eq. 8.

    A zero weight has no direction to iterate on, so weights must be initialised before.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            spectral_norm(module)
