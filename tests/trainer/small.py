"""Configs, data sets and networks so small that a whole training run takes a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.data import ImageDataset
from shared.presets import TrainConfig, resolve

CPU = torch.device("cpu")


def small_config(preset: str = "tiny", **overrides: Any) -> TrainConfig:
    """A preset with eight channels at every resolution."""
    small = {"latent_dim": 8, "g_channels": [8, 8, 8], "d_channels": [8, 8, 8], "batch_size": 8}
    return resolve(preset, small | overrides)


def small_resnet(preset: str = "tiny", **overrides: Any) -> TrainConfig:
    """The same as residual networks, which have one more stage in the generator."""
    return small_config(preset, **{"architecture": "resnet", "g_channels": [8, 8, 8, 4]} | overrides)


def random_images(count: int = 100, num_classes: int = 10) -> ImageDataset:
    """Noise, always the same."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return ImageDataset(images, torch.arange(count) % num_classes, tuple(f"class-{i}" for i in range(num_classes)))


class LinearCritic(nn.Module):
    """score = <weight, image>: its gradient is its weight, wherever one looks."""

    def __init__(self, *leading: float) -> None:
        super().__init__()
        weight = torch.zeros(3 * 32 * 32)
        weight[: len(leading)] = torch.tensor(leading)
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight
