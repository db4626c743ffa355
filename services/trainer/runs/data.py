"""Loads the training images of a run, and says in its events how they were read and how they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from services.trainer.data.datasets import ImageDataset, ignore_progress
from services.trainer.data.device_memory import image_limit_bytes
from services.trainer.data.loading import load_training_images
from services.trainer.data.packing import Preprocessing
from shared.configs.train import TrainConfig
from shared.datasets.report import DatasetReport, OnProgress
from shared.datasets.text import counted, listed
from shared.jobs.trainer_messages import SendEvent
from shared.settings import Settings

LISTED_FILES = 100  # of each kind in an event; GET /datasets/{name} has all
LISTED_CLASSES = 20  # in the message of an event; its data has all


def load_images(
    config: TrainConfig,
    name: str,
    settings: Settings,
    device: torch.device,
    on_progress: OnProgress = ignore_progress,
) -> ImageDataset:
    """The training images, read by the config's rules: on the device, or streamed to it. Raises BadDataset, OSError."""
    dataset = load_training_images(name, settings, Preprocessing.of(config), config.on_bad_file, on_progress)
    return dataset.to(device, image_limit_bytes(device, settings.device_images_gb))


def config_for(dataset: ImageDataset, config: TrainConfig) -> TrainConfig:
    """The config, which says that images are grey if those of the data set are and the config leaves it open."""
    is_grey = config.channels is None and dataset.images.shape[1] == 1
    return config.model_copy(update={"channels": 1}) if is_grey else config


def announce(dataset: ImageDataset, config: TrainConfig, place: str, send_event: SendEvent) -> None:
    """Sends the event `started` with the report on the data set, and events for what its owner should know."""
    report = dataset.report
    data = {} if report is None else {"dataset": _trimmed(report)}
    send_event("started", f"{len(dataset):,} images of {len(dataset.classes)} classes, on {place}", **data)
    for message in _messages(report) if report is not None else ():
        send_event("warning", message)
    if dataset.stream is not None:
        send_event(
            "streaming",
            f"{len(dataset.stream.resident):,} of {len(dataset):,} images are on the device; the others are read from "
            "the disk while it trains",
        )
    if config.balance_classes:
        factors = draw_factors(dataset)
        lines = [
            f"class '{name}': {counted(count, 'image')}, drawn {factor:.2g} times as often"
            for name, count, factor in factors
        ]
        message = f"each class is drawn equally often; {listed(lines, LISTED_CLASSES)}"
        send_event("balanced", message, factors={name: factor for name, _, factor in factors})


def draw_factors(dataset: ImageDataset) -> list[tuple[str, int, float]]:
    """By class: its name, its number of images and how often each is drawn, relative to drawing all equally often.

    The rarest class comes first. Classes without images are left out.
    """
    counts = dataset.labels.bincount(minlength=len(dataset.classes)).tolist()
    share = len(dataset) / len(dataset.present_labels)
    named = [(name, count) for name, count in zip(dataset.classes, counts, strict=True) if count]
    return [(name, count, round(share / count, 3)) for name, count in sorted(named, key=lambda pair: pair[1])]


def _messages(report: DatasetReport) -> Iterator[str]:
    if report.damaged:
        files = listed([f"{file.path} ({file.reason})" for file in report.damaged], LISTED_FILES)
        yield f"{counted(len(report.damaged), 'damaged file')} skipped: {files}"
    yield from report.warnings
    if report.held_out is not None:
        yield report.held_out


def _trimmed(report: DatasetReport) -> dict[str, Any]:
    """The report as JSON, with at most LISTED_FILES files of each kind and their numbers."""
    short = {"damaged": report.damaged[:LISTED_FILES], "ignored": report.ignored[:LISTED_FILES]}
    counts = {"damaged_count": len(report.damaged), "ignored_count": len(report.ignored)}
    return report.model_copy(update=short).model_dump(mode="json") | counts
