"""The study of synthetic training images, with images of two colours that a classifier learns in a moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import augment_study
from benchmarks.augment_study import Study, part_of, run, synthesize, table
from services.trainer.data.datasets import ImageDataset, load_dataset
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, ModelRegistry
from tests.api.conftest import publish
from tests.api.graphs import make_generator
from tests.processes import write_color_dataset

STUDY = Study(shares=(0.1, 1.0), synthetic=40, budget_nimg=480, width=8, seed=0)


@pytest.fixture
def real(tmp_path: Path) -> ImageDataset:
    write_color_dataset(tmp_path)
    return load_dataset(tmp_path, "colors")


def test_a_part_has_the_same_share_of_each_class(real: ImageDataset) -> None:
    part = part_of(real, 0.1, seed=0)

    assert part.labels.bincount().tolist() == [4, 4]
    assert part_of(real, 0.001, seed=0).labels.bincount().tolist() == [1, 1]
    assert torch.equal(part_of(real, 1.0, seed=3).images, real.images)


def test_each_share_is_measured_with_and_without_synthetic_images(real: ImageDataset) -> None:
    """Synthetic images with the labels swapped do harm, and right ones do not."""
    chosen = torch.arange(20).repeat(2)
    chosen[20:] += 40
    helpful = ImageDataset(real.images[chosen], real.labels[chosen], real.classes)
    harmful = ImageDataset(helpful.images, 1 - helpful.labels, real.classes)

    rows = run(STUDY, real, real, helpful, torch.device("cpu"))
    worse = run(STUDY, real, real, harmful, torch.device("cpu"))

    assert [(row["share"], row["real_images"], row["synthetic_images"]) for row in rows] == [
        (0.1, 8, 0), (0.1, 8, 40), (1.0, 80, 0), (1.0, 80, 40), (0.0, 0, 40),
    ]  # fmt: skip
    assert rows[-1]["accuracy"] > 0.9
    assert worse[-1]["accuracy"] < 0.1


def test_the_command_prints_a_table_and_writes_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data=tmp_path / "data", datasets=tmp_path / "datasets", threads=1)
    write_color_dataset(settings.dataset_root)
    shutil.copytree(settings.dataset_root / "colors" / "train", settings.dataset_root / "colors" / "test")
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    publish(registry, "two", graph=make_generator(8, 2), classes=("blue", "red"))
    monkeypatch.setattr(augment_study, "read_settings", lambda: settings)
    output = tmp_path / "figures.json"
    arguments = ["", "--model", "two", "--dataset", "colors", "--shares", "0.5", "1", "--synthetic", "20",
                 "--epochs", "2", "--width", "8", "--output", str(output)]  # fmt: skip
    monkeypatch.setattr("sys.argv", arguments)

    augment_study.main()

    printed = capsys.readouterr().out
    assert "| 40 (50%) |" in printed
    assert "| 80 (100%) |" in printed
    assert len(json.loads(output.read_text())["rows"]) == 5


def test_synthetic_images_are_those_of_generate_job(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, threads=1)
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    manifest = publish(registry, "two", graph=make_generator(8, 2), classes=("blue", "red"))
    graph = registry.read_file(manifest, GENERATOR_FILE)

    images = synthesize(STUDY, manifest, graph, settings)

    assert images.labels.tolist() == [0, 1] * 20
    assert len({image.numpy().tobytes() for image in images.images}) == 40


def test_the_table_shows_what_synthetic_images_change(tmp_path: Path) -> None:
    manifest = publish(ModelRegistry(ArtifactStore(Settings(data=tmp_path).artifact_url)), "two")
    rows = [
        {"share": 0.1, "synthetic": False, "real_images": 8, "accuracy": 0.5},
        {"share": 0.1, "synthetic": True, "real_images": 8, "accuracy": 0.625},
        {"share": 1.0, "synthetic": False, "real_images": 80, "accuracy": 0.9},
        {"share": 1.0, "synthetic": True, "real_images": 80, "accuracy": 0.89},
        {"share": 0.0, "synthetic": True, "real_images": 0, "accuracy": 0.45},
    ]

    lines = table(rows, manifest, STUDY).splitlines()

    assert lines[-3:] == [
        "| 8 (10%) | 50.00% | 62.50% | +12.50 |",
        "| 80 (100%) | 90.00% | 89.00% | -1.00 |",
        "| none | | 45.00% | |",
    ]
