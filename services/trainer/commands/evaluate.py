"""`python -m services.trainer evaluate MODEL`: the figures of shipped files, as a table or as JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.trainer.data.datasets import load_dataset
from services.trainer.metrics.evaluation import Evaluator, open_evaluator
from services.trainer.metrics.extractor import find_extractor
from services.trainer.metrics.subjects import open_subject
from services.trainer.runs.run import device_name, pick_device
from shared.configs.presets import MIN_EVAL_IMAGES
from shared.errors import InvalidInput
from shared.settings import Settings

COLUMNS = (  # (field, heading, format)
    ("fid", "FID", "{:.3f}"),
    ("fid_of_floor", "x floor", "{:.1f}"),
    ("kid", "KID", "{:.5f}"),
    ("inception_score", "IS", "{:.3f}"),
    ("precision", "precision", "{:.3f}"),
    ("recall", "recall", "{:.3f}"),
    ("class_accuracy", "class accuracy", "{:.3f}"),
)


@dataclass(frozen=True)
class Evaluation:
    """What to measure and how."""

    models: tuple[str, ...]
    images: int
    seed: int
    extractor: str
    weights: Path | None
    dataset: str  # of snapshots; models say themselves what they were trained on


def evaluate(asked: Evaluation, settings: Settings, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One record for each model: its name, images seen and metrics.

    Raises InvalidInput, NotFound, CorruptArtifact, BadDataset.
    """
    if asked.images < MIN_EVAL_IMAGES:
        raise InvalidInput.of("images", asked.images, f"at least {MIN_EVAL_IMAGES} are needed")
    device = pick_device(settings)
    extractor = find_extractor(asked.extractor, asked.weights, settings, device)

    @functools.cache
    def evaluator(dataset: str) -> Evaluator:
        say(f"features of the real images of {dataset}; they are kept in {settings.data / 'cache'}")
        return open_evaluator(extractor, settings, dataset, load_dataset(settings.dataset_root, dataset))

    records = []
    for name in asked.models:
        # The file of a snapshot does not say what it was trained on.
        subject = open_subject(name, settings, lambda: len(evaluator(asked.dataset).dataset.classes), device)
        say(f"{subject.name}: {asked.images:,} images, on {device_name(device)}")
        against = evaluator(subject.dataset or asked.dataset)
        metrics = against.evaluate(subject.generator, subject.config, asked.images, asked.seed)
        records.append({"model": subject.name, "images_seen": subject.images_seen, "metrics": metrics.model_dump()})
    return records


def table(records: Iterable[dict[str, Any]]) -> str:
    """The records as text: a row each, one of real images for scale, and how it was measured."""
    rows, protocols = [["model", "images seen", *(heading for _, heading, _ in COLUMNS)]], dict[str, None]()
    for record in records:
        metrics = record["metrics"]
        protocol = dict(metrics["protocol"])
        real = protocol.pop("real")
        if real is not None:
            floor = ["real test images", "", *_cells(real, real["fid"])]
            rows += [] if floor in rows else [floor]
        rows.append(
            [record["model"], f"{record['images_seen']:,}", *_cells(metrics, None if real is None else real["fid"])]
        )
        told = {name: value for name, value in protocol.items() if name not in ("class_accuracy", "kid_std")}
        protocols[json.dumps(told)] = None
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, *protocols])


def _cells(figures: dict[str, Any], floor: float | None) -> list[str]:
    if floor:
        figures = figures | {"fid_of_floor": figures["fid"] / floor}
    return ["" if figures.get(field) is None else form.format(figures[field]) for field, _, form in COLUMNS]
