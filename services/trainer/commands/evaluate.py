"""`python -m services.trainer evaluate MODEL`: prints the metrics of models as a table or as JSON."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.configs.reading import OnBadFile
from shared.configs.train import MIN_EVAL_IMAGES, TrainConfig
from shared.errors import InvalidInput, KilnError
from shared.settings import Settings

if TYPE_CHECKING:
    from services.trainer.data.packing import Preprocessing
    from services.trainer.metrics.classification_accuracy import AccuracyScorer
    from services.trainer.metrics.evaluation import Evaluator
    from services.trainer.metrics.subjects import Subject

PREFIXES = ("", "imagenet_")  # of the judges' figures
COLUMNS = (  # (field without the judge's prefix, heading, format)
    ("fid", "FID", "{:.4g}"),
    ("fid_of_floor", "x floor", "{:.1f}"),
    ("kid", "KID", "{:.5f}"),
    ("inception_score", "IS", "{:.3f}"),
    ("precision", "precision", "{:.3f}"),
    ("recall", "recall", "{:.3f}"),
    ("density", "density", "{:.3f}"),
    ("coverage", "coverage", "{:.3f}"),
    ("class_accuracy", "class accuracy", "{:.3f}"),
    ("cas", "CAS", "{:.3f}"),
)


@dataclass(frozen=True)
class Evaluation:
    """Which models to evaluate, and how."""

    models: tuple[str, ...]
    images: int
    seed: int
    judges: tuple[str, ...]
    weights: Path | None
    dataset: str  # of snapshots; models name their own
    cas_images: int = 0  # 0: no classification accuracy score
    cas_epochs: int = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a model's id, its folder, or weights/*.safetensors")
    parser.add_argument("-n", "--images", type=int, default=10_000, help="images to generate (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of their latents and classes (default: 0)")
    parser.add_argument(
        "--judges",
        default="classifier,imagenet",
        help="networks whose features are compared (default: classifier,imagenet): imagenet (EfficientNet-lite2), and "
        "one of classifier (Kiln's own) and inception",
    )
    parser.add_argument("--weights", type=Path, help="file with the weights of Inception")
    parser.add_argument("--dataset", default="cifar10", help="training data of snapshots; models name their own")
    parser.add_argument(
        "--cas",
        type=int,
        default=0,
        metavar="N",
        help="also measure the classification accuracy score: train a classifier on N generated images and one on N "
        "real ones, and test both on the real test images (50,000: 40 minutes of one core)",
    )
    parser.add_argument("--cas-epochs", type=int, default=5, metavar="E", help="passes over the N images (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Returns the exit status. Raises InvalidInput."""
    judges = tuple(name.strip() for name in options.judges.split(","))
    evaluation = Evaluation(
        tuple(options.models), options.images, options.seed, judges, options.weights, options.dataset, options.cas,
        options.cas_epochs,
    )  # fmt: skip
    try:
        records = evaluate(evaluation, settings, _print_status)
    except InvalidInput:
        raise
    except KilnError as error:
        _print_status(f"{type(error).__name__}: {error}")
        return 1
    print(json.dumps(records, indent=2) if options.json else table(records))
    return 0


def evaluate(evaluation: Evaluation, settings: Settings, on_status: Callable[[str], None]) -> list[dict[str, Any]]:
    """One record per model: its name, images seen in training, metrics, the seconds that measuring them took and, on
    request, classification accuracy score.

    Raises InvalidInput, NotFound, CorruptArtifact, BadDataset.
    """
    from services.trainer.data.loading import load_training_images
    from services.trainer.data.packing import Preprocessing
    from services.trainer.metrics.classification_accuracy import open_scorer, score_spec
    from services.trainer.metrics.evaluation import open_evaluator
    from services.trainer.metrics.extractor import find_extractor
    from services.trainer.metrics.subjects import open_subject
    from services.trainer.runs.device import device_name, pick_device

    if evaluation.images < MIN_EVAL_IMAGES:
        raise InvalidInput.of("images", evaluation.images, f"must be at least {MIN_EVAL_IMAGES}")
    _check_judges(evaluation.judges)
    spec = None
    if evaluation.cas_images:
        spec = score_spec(evaluation.cas_images, evaluation.cas_epochs, evaluation.seed)
    device = pick_device(settings)
    extractors = [find_extractor(name, evaluation.weights, settings, device) for name in evaluation.judges]

    @functools.cache
    def open_data(
        name: str, preprocessing: Preprocessing, on_bad_file: OnBadFile
    ) -> tuple[Evaluator, AccuracyScorer | None]:
        on_status(f"computing features of the real images of {name}; they are cached in {settings.data / 'cache'}")
        dataset = load_training_images(name, settings, preprocessing, on_bad_file)
        # First the scorer, which refuses a data set without test images: features take minutes.
        scorer = open_scorer(settings, name, dataset, device, spec) if spec else None
        return open_evaluator(extractors, settings, name, dataset), scorer

    def data_of(config: TrainConfig, name: str) -> tuple[Evaluator, AccuracyScorer | None]:
        return open_data(name, Preprocessing.of(config), config.on_bad_file)

    records = []
    for name in evaluation.models:
        # The file of a snapshot does not name its data set.
        subject = open_subject(name, settings, lambda config: data_of(config, evaluation.dataset)[0].dataset, device)
        on_status(f"{subject.name}: {evaluation.images:,} images, on {device_name(device)}")
        evaluator, scorer = data_of(subject.config, subject.dataset or evaluation.dataset)
        started = time.perf_counter()
        metrics = evaluator.evaluate(subject.generator, subject.config, evaluation.images, evaluation.seed).model_dump()
        seconds = time.perf_counter() - started
        record = {"model": subject.name, "images_seen": subject.images_seen, "seconds": seconds, "metrics": metrics}
        records.append(record if scorer is None else record | _accuracy_score(scorer, subject, on_status))
    return records


def _accuracy_score(scorer: AccuracyScorer, subject: Subject, on_status: Callable[[str], None]) -> dict[str, Any]:
    """The entry of a model's record; empty for an unconditional model."""
    on_status(f"{subject.name}: training a classifier on {scorer.spec.images:,} of its images")
    score = scorer.score(subject.generator, subject.config)
    if score is None:
        on_status(f"{subject.name}: no classification accuracy score, because the model takes no class")
        return {}
    return {"classification_accuracy_score": asdict(score)}


def _check_judges(names: Sequence[str]) -> None:
    """Raises InvalidInput if two figures would have one name: only those of `imagenet` have a prefix."""
    if len(set(names)) < len(names) or {"classifier", "inception"} <= set(names):
        problem = "must be imagenet, classifier or inception, or imagenet and one of the others"
        raise InvalidInput.of("judges", ",".join(names), problem)


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records as text: a block per judge with a row per model and one of real images, then the protocols."""
    records = [_with_score(record) for record in records]
    blocks = [_block(prefix, records) for prefix in PREFIXES]
    # Protocols differ where models have different data sets.
    protocols = dict.fromkeys(json.dumps(_conditions(record["metrics"]["protocol"])) for record in records)
    return "\n".join([*filter(None, blocks), *protocols])


def _with_score(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its classification accuracy score among the metrics, if it has one."""
    if (cas := record.get("classification_accuracy_score")) is None:
        return record
    metrics = record["metrics"]
    protocol = metrics["protocol"] | {"cas": {name: cas[name] for name in ("images", "test_images", "classifier")}}
    if protocol["real"] is not None:
        protocol["real"] = protocol["real"] | {"cas": cas["real_score"]}
    return record | {"metrics": metrics | {"cas": cas["score"], "protocol": protocol}}


def _block(prefix: str, records: Sequence[dict[str, Any]]) -> str:
    """The figures of one judge, without columns that no row has; empty if the judge took no part."""
    rows: list[list[str]] = []
    for record in records:
        metrics = record["metrics"]
        real = metrics["protocol"]["real"]
        floor = None if real is None else real.get(f"{prefix}fid")
        if real is not None:
            name = f"real {real['split']} images"
            rows += [[name, f"{real['images']:,}", "", "", *_cells(prefix, real, floor)]]
        made = [f"{metrics['protocol']['images']:,}", f"{record['images_seen']:,}", f"{record['seconds']:.0f}"]
        rows.append([record["model"], *made, *_cells(prefix, metrics, floor)])
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))]  # models of one data set share the row of real images
    head = ["model", "n", "trained on", "seconds", *(heading for _, heading, _ in COLUMNS)]
    filled = [i for i in range(len(head)) if i < 4 or any(row[i] for row in rows)]
    if len(filled) == 4:
        return ""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in filled]
    lines = ["  ".join(row[i].rjust(width) for i, width in zip(filled, widths, strict=True)) for row in [head, *rows]]
    judge = records[0]["metrics"]["protocol"][f"{prefix}extractor"]["name"]
    return "\n".join([f"Judge: {judge}", *lines, ""])


def _conditions(protocol: dict[str, Any]) -> dict[str, Any]:
    """The protocol without its figures."""
    is_figure = ("class_accuracy", "real", *(f"{prefix}kid_std" for prefix in PREFIXES))
    return {name: value for name, value in protocol.items() if name not in is_figure}


def _cells(prefix: str, metrics: dict[str, Any], floor: float | None) -> list[str]:
    values = {field: metrics.get(prefix + field) for field, _, _ in COLUMNS}
    if floor and values["fid"] is not None:
        values["fid_of_floor"] = values["fid"] / floor
    return ["" if (value := values[field]) is None else form.format(value) for field, _, form in COLUMNS]


def _print_status(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
