"""Does synthetic data help? Trains classifiers on parts of a data set, with and without images of a model.

    python -m benchmarks.augment_study --model models/starter            # hours on two cores
    python -m benchmarks.augment_study --epochs 2 --shares 0.05 1        # a quick look

Prints a table of accuracies on real test images, and with `--output` writes the figures as JSON. All classifiers see
the same number of images. The last row has synthetic images only: the classification accuracy score of Ravuri and
Vinyals 2019, arXiv:1905.10887.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.generator.engine import OnnxEngine
from services.generator.latents import draw_latents, stream_of
from services.trainer.data.datasets import ImageDataset, load_dataset, load_test_split
from services.trainer.metrics.classification_accuracy import train_and_test
from services.trainer.runs.device import pick_device
from shared.configs.classifier import ClassifierConfig
from shared.settings import Settings, read_settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, ModelManifest, ModelRegistry, read_folder

BATCH = 64  # images that are generated at a time


@dataclass(frozen=True)
class Study:
    """What is compared. `budget_nimg`: images that each classifier sees, repetitions included."""

    shares: tuple[float, ...]
    synthetic: int
    budget_nimg: int
    width: int
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/starter", help="a model's folder or id")
    parser.add_argument("--dataset", default="cifar10", help="its data set, with a test split")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.2, 1.0], help="parts of the real images")
    parser.add_argument("--synthetic", type=int, default=50_000, help="synthetic images")
    parser.add_argument("--epochs", type=float, default=4, help="budget: passes over all real training images")
    parser.add_argument("--width", type=int, default=16, help="channels of the first block of the classifier")
    parser.add_argument("--seed", type=int, default=0, help="of the parts, the synthetic images and the classifiers")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    settings = read_settings()
    manifest, graph = open_model(options.model, settings)
    cache = settings.data / "cache"
    real = load_dataset(settings.dataset_root, options.dataset, cache=cache)
    test = load_test_split(settings.dataset_root, options.dataset, real.classes, cache=cache)
    budget_nimg = round(options.epochs * len(real))
    study = Study(tuple(options.shares), options.synthetic, budget_nimg, options.width, options.seed)
    rows = run(study, real, test, synthesize(study, manifest, graph, settings), pick_device(settings))
    print(table(rows, manifest, study))
    if options.output is not None:
        options.output.write_text(json.dumps({"model": manifest.id, "digest": manifest.digest, "rows": rows}, indent=1))


def open_model(name: str, settings: Settings) -> tuple[ModelManifest, bytes]:
    """The manifest and the graph of a model, by folder or id. Raises UnknownModel, CorruptArtifact."""
    if Path(name).is_dir():
        manifest, files = read_folder(Path(name))
        return manifest, files[GENERATOR_FILE]
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    manifest = registry.get(name)
    return manifest, registry.read_file(manifest, GENERATOR_FILE)


def synthesize(study: Study, manifest: ModelManifest, graph: bytes, settings: Settings) -> ImageDataset:
    """The synthetic images: an equal share of each class, as a generate job of the seed makes them."""
    labels = torch.arange(study.synthetic) % len(manifest.classes)
    engine = OnnxEngine(graph, manifest.latent_dim, len(manifest.classes), settings)

    def generate(start: int) -> Any:
        rows = range(start, min(start + BATCH, study.synthetic))
        latents = stream_of(study.seed, [row // len(manifest.classes) for row in rows])
        return engine.run(draw_latents(latents, manifest.latent_dim), labels[rows.start : rows.stop].numpy())

    with ThreadPoolExecutor(engine.workers) as pool:
        images = np.concatenate(list(pool.map(generate, range(0, study.synthetic, BATCH))))  # [N, H, W, C]
    return ImageDataset(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, manifest.classes)


def run(
    study: Study, real: ImageDataset, test: ImageDataset, synthetic: ImageDataset, device: torch.device
) -> list[dict[str, Any]]:
    """One row per training set, in the order of the table."""
    sets: list[tuple[dict[str, Any], list[ImageDataset]]] = []
    for share in study.shares:
        part = part_of(real, share, study.seed)
        sets += [
            ({"share": share, "synthetic": False}, [part]),
            ({"share": share, "synthetic": True}, [part, synthetic]),
        ]
    sets.append(({"share": 0.0, "synthetic": True}, [synthetic]))
    rows = []
    for facts, parts in sets:
        accuracy = accuracy_of(study, joined(parts), test, device)
        counts = {"real_images": sum(len(part) for part in parts if part is not synthetic)}
        rows.append(facts | counts | {"synthetic_images": len(synthetic) * facts["synthetic"], "accuracy": accuracy})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def part_of(dataset: ImageDataset, share: float, seed: int) -> ImageDataset:
    """This share of the images of each class, at least one, chosen at random."""
    rng = np.random.default_rng(seed)
    labels, chosen = dataset.labels.cpu().numpy(), []
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(own[: max(1, round(share * len(own)))])
    rows = torch.from_numpy(np.sort(np.concatenate(chosen)))
    return ImageDataset(dataset.images[rows], dataset.labels[rows], dataset.classes)


def joined(parts: Sequence[ImageDataset]) -> ImageDataset:
    """All images of the parts, which have the same classes in the same order."""
    assert all(part.classes == parts[0].classes for part in parts), "the model has other classes than the data set"
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    return ImageDataset(images, labels, parts[0].classes)


def accuracy_of(study: Study, images: ImageDataset, test: ImageDataset, device: torch.device) -> float:
    """Share of the test images that a classifier recognises after the budget."""
    epochs = max(1, round(study.budget_nimg / len(images)))
    batch_size = min(64, max(2, len(images) // 8))
    config = ClassifierConfig(width=study.width, epochs=epochs, batch_size=batch_size, seed=study.seed)
    return train_and_test(config, images, test, device)


def table(rows: Sequence[dict[str, Any]], manifest: ModelManifest, study: Study) -> str:
    """Markdown: a line per share of the real images, and what the synthetic images changed."""
    accuracies = {(row["share"], row["synthetic"]): row["accuracy"] for row in rows}
    lines = [
        f"Model {manifest.id}, trained on all of {manifest.dataset}; {study.synthetic:,} synthetic images, seed "
        f"{study.seed}; each classifier (width {study.width}) sees about {study.budget_nimg:,} images.",
        "",
        "| real training images | accuracy without synthetic images | with synthetic images | difference |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for share in study.shares:
        without, together = accuracies[share, False], accuracies[share, True]
        count = next(row["real_images"] for row in rows if row["share"] == share)
        lines.append(
            f"| {count:,} ({share:.0%}) | {without:.2%} | {together:.2%} | {100 * (together - without):+.2f} |"
        )
    lines.append(f"| none | | {accuracies[0.0, True]:.2%} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
