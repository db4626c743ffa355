"""ResNet-18 for 32 pixels (He et al. 2016, arXiv:1512.03385): torchvision's blocks behind a 3x3 stem, of any width."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

BLOCKS_PER_STAGE = 2
STAGES = 4


class Classifier(nn.Module):
    """images [N, 3, 32, 32] in [-1, 1] -> logits [N, classes] and pooled features [N, 8 width].

    torchvision's resnet18 with two changes, usual at this size: the stem is a 3x3 convolution of stride 1, and no max
    pool follows it. torchvision fixes the width at 64, so its blocks are put together here.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(STAGES)]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(*(_stage(c_in, c_out) for c_in, c_out in pairwise([width, *widths])))
        self.linear = nn.Linear(widths[-1], num_classes)
        for module in self.modules():  # torchvision's initial weights
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = cast(Tensor, self.stages(self.stem(images))).mean((2, 3))  # [N, C, 4, 4] -> [N, C]
        return self.linear(features), features


def _stage(c_in: int, c_out: int) -> nn.Sequential:
    """Blocks of one resolution; where the channels double, the first block halves the image."""
    stride = 1 if c_in == c_out else 2
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
    first = BasicBlock(c_in, c_out, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(c_out, c_out) for _ in range(BLOCKS_PER_STAGE - 1)))
