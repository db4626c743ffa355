"""Configs, data sets and networks that are small enough to train within a moment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.classifier.files import export_classifier
from services.trainer.classifier.network import Classifier
from services.trainer.data.datasets import ImageDataset
from services.trainer.networks.discriminator import Discriminator
from shared.configs.classifier import ClassifierConfig
from shared.configs.presets import resolve
from shared.configs.train import TrainConfig
from shared.storage.classifier_files import ClassifierManifest, write_classifier

CPU = torch.device("cpu")


def small_config(preset: str = "tiny", **overrides: Any) -> TrainConfig:
    """A preset with eight channels at every resolution."""
    small = {"latent_dim": 8, "g_channels": [8, 8, 8], "d_channels": [8, 8, 8], "batch_size": 8}
    return resolve(preset, small | overrides)


def small_resnet(preset: str = "tiny", **overrides: Any) -> TrainConfig:
    """The same as residual networks, which have one more stage in the generator."""
    return small_config(preset, **{"architecture": "resnet", "g_channels": [8, 8, 8, 4]} | overrides)


def small_keras(preset: str = "dcgan", **overrides: Any) -> TrainConfig:
    """Report 2's networks, made small."""
    return small_config(preset, **{"d_channels": [8, 8]} | overrides)


def small_projected(**overrides: Any) -> TrainConfig:
    """Small residual networks whose discriminator has two heads on the features of the frozen network."""
    options: dict[str, Any] = {"discriminator": "projected", "d_channels": [8, 6], "spectral_norm": True}
    return small_resnet(**options | overrides)


def random_images(count: int = 100, num_classes: int = 10) -> ImageDataset:
    """Noise, always the same."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return ImageDataset(images, torch.arange(count) % num_classes, tuple(f"class-{i}" for i in range(num_classes)))


def untrained_classifier(width: int, num_classes: int) -> Classifier:
    """Initial weights, always the same, behind a whitening layer that fits noise."""
    torch.manual_seed(0)
    classifier = Classifier(width, num_classes)
    classifier.whiten(torch.rand(20, 3, 32, 32) * 2 - 1)
    return classifier


def small_classifier(folder: Path, classes: tuple[str, ...] = (), *, width: int = 8) -> Classifier:
    """An untrained classifier over `class-0` to `class-9`, with its files in the folder."""
    classes = classes or random_images().classes
    classifier = untrained_classifier(width, len(classes))
    files, parity = export_classifier(classifier)
    draft = ClassifierManifest(
        created_at=datetime(2026, 1, 1, tzinfo=UTC), dataset="noise", classes=classes, feature_dim=4 * width,
        config=ClassifierConfig(width=width), test_images=10, test_accuracy=0.1, class_accuracy={}, images_seen=0,
        wall_seconds=0, images_per_second=0, device="none", command="none", parity=parity,
    )  # fmt: skip
    write_classifier(folder, draft, files)
    return classifier


class EventLog(list[tuple[str, str]]):
    """Collects (kind, message) of the events that are sent to it."""

    def __call__(self, kind: str, message: str, **data: Any) -> None:
        self.append((kind, message))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self]


class LinearCritic(Discriminator):
    """score = <weight, image>; its gradient is its weight everywhere."""

    def __init__(self, *leading: float) -> None:
        super().__init__()
        weight = torch.zeros(3 * 32 * 32)
        weight[: len(leading)] = torch.tensor(leading)
        self.weight = nn.Parameter(weight)

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        return images.flatten(1) @ self.weight, None
