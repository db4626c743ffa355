"""A generate job in this process: which images it makes, in which files, and how it resumes."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.generator.png import read_provenance
from services.trainer.generation.run import run_job
from services.trainer.generation.selection import class_order
from shared.configs.generate import GENERATE, GenerateConfig
from shared.errors import BadConfig, EnvironmentFailed
from shared.jobs.record import Job, new_job
from shared.jobs.trainer_messages import DatasetLine, EventLine, ProgressLine, StopSignal, TrainerLine
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.generated_datasets import DatasetManifest, GeneratedDatasets
from shared.storage.model_registry import ModelManifest, ModelRegistry
from tests.api.conftest import CLASSES, publish
from tests.api.graphs import make_generator, write_color_classifier

COLORS = ("red", "green", "blue")


class Generation:
    """A model, a job, and everything that the job wrote and sent."""

    def __init__(
        self, folder: Path, *, conditional: bool = True, classes: tuple[str, ...] = CLASSES, **graph: Any
    ) -> None:
        self.settings = Settings(data=folder, classifier=folder / "classifier", threads=2)
        self.artifacts = ArtifactStore(self.settings.artifact_url)
        self.datasets = GeneratedDatasets(self.artifacts)
        model = make_generator(8, len(classes), **graph)
        self.model: ModelManifest = publish(
            ModelRegistry(self.artifacts), "first", graph=model, conditional=conditional, classes=classes
        )
        self.lines: list[TrainerLine] = []

    def job(self, classes: dict[str, int], **more: Any) -> Job:
        fields = {"n": sum(classes.values()), "shard_images": 10} | more
        config = GenerateConfig(model="first", model_digest=self.model.digest, classes=classes, **fields)
        return new_job(datetime.now(UTC), preset=GENERATE, config=config, dataset="cifar10", name=None)

    def run(self, job: Job, should_stop: Callable[[], StopSignal | None] = lambda: None) -> bool:
        return run_job(job, self.settings, self.lines.append, should_stop)

    @property
    def manifest(self) -> DatasetManifest:
        return next(line.manifest for line in self.lines[::-1] if isinstance(line, DatasetLine))

    def shards(self, job: Job) -> list[bytes]:
        return [self.datasets.read_shard(job.id, shard) for shard in self.manifest.shards]

    def pngs(self, job: Job) -> dict[str, bytes]:
        """All images of an image folder, by name."""
        images: dict[str, bytes] = {}
        for data in self.shards(job):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                images |= {name: archive.read(name) for name in archive.namelist()}
        return images


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return Generation(tmp_path)


def test_an_image_folder_holds_the_requested_images_of_each_class(generation: Generation) -> None:
    job = generation.job({"cat": 13, "dog": 9, "frog": 3})

    assert generation.run(job)

    pngs = generation.pngs(job)
    assert Counter(name.partition("/")[0] for name in pngs) == {"cat": 13, "dog": 9, "frog": 3}
    assert sorted(name for name in pngs if name.startswith("frog")) == [f"frog/0-00000{i}.png" for i in range(3)]
    assert [shard.images for shard in generation.manifest.shards] == [10, 10, 5]
    assert generation.manifest.classes == {"cat": 13, "dog": 9, "frog": 3}
    assert (generation.manifest.images, generation.manifest.rejected) == (25, 0)
    provenance = read_provenance(pngs["dog/0-000004.png"])
    assert provenance is not None
    assert (provenance["class"], provenance["seed"], provenance["first_index"]) == ("dog", 0, 4)
    with Image.open(io.BytesIO(pngs["dog/0-000004.png"])) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    last = [line for line in generation.lines if isinstance(line, ProgressLine)][-1]
    assert (last.images_seen, last.images_total) == (25, 25)


def test_every_stretch_of_the_order_holds_the_classes_in_proportion() -> None:
    counts = {"cat": 60, "dog": 30, "frog": 10}

    order = list(class_order(counts, {}))

    assert Counter(order) == counts
    for start in range(0, 100, 10):
        part = Counter(order[start : start + 10])
        assert abs(part["cat"] - 6) <= 1
        assert abs(part["dog"] - 3) <= 1
        assert abs(part["frog"] - 1) <= 1
    made = Counter(order[:37])
    assert list(class_order(counts, made)) == order[37:]


def test_a_webdataset_has_an_image_a_label_and_a_description_of_each_sample(generation: Generation) -> None:
    job = generation.job({"cat": 7, "dog": 7}, format="webdataset", seed=5)

    generation.run(job)

    samples: dict[str, dict[str, bytes]] = {}
    for data in generation.shards(job):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for entry in archive:
                key, _, suffix = entry.name.partition(".")
                file = archive.extractfile(entry)
                assert file is not None
                samples.setdefault(key, {})[suffix] = file.read()
    assert sorted(samples) == [f"5-{number:09d}" for number in range(14)]
    for sample in samples.values():
        description = json.loads(sample["json"])
        assert CLASSES[int(sample["cls"])] == description["class"]
        provenance = read_provenance(sample["png"])
        assert provenance is not None
        assert (provenance["class"], provenance["first_index"]) == (description["class"], description["index"])


@pytest.mark.parametrize("file_format", ["imagefolder", "webdataset"])
def test_a_job_that_was_interrupted_continues_with_the_same_bytes(generation: Generation, file_format: str) -> None:
    # Given an undisturbed data set
    first, second = (generation.job({"cat": 21, "dog": 14}, format=file_format) for _ in range(2))
    generation.run(first)
    expected = generation.shards(first)

    # When another job is stopped in the middle, loses the file of a shard whose record was never written, and resumes
    assert not generation.run(second, leave_after(3))
    committed = len(list(generation.datasets.committed(second.id)))
    assert 0 < committed < len(expected)
    generation.artifacts.write(f"jobs/{second.id}/dataset/shard-{committed:05d}.zip", b"half a fi")
    assert generation.run(second)

    # Then all bytes are the same, and it did not start again
    assert generation.shards(second) == expected
    kinds = [line.event.kind for line in generation.lines if isinstance(line, EventLine)]
    assert kinds.count("resumed") == 1


def test_a_job_that_is_finished_early_keeps_whole_shards(generation: Generation) -> None:
    job = generation.job({"cat": 100})
    seen = 0

    def stop_after_a_while() -> StopSignal | None:
        nonlocal seen
        seen += 1
        return "finish" if seen > 3 else None

    assert generation.run(job, stop_after_a_while)

    assert 0 < generation.manifest.images < generation.manifest.requested == 100
    assert generation.manifest.classes == {"cat": generation.manifest.images}
    assert len(generation.pngs(job)) == generation.manifest.images


def test_the_classifier_filters_images_and_the_manifest_says_how_many(tmp_path: Path) -> None:
    # Given a model whose images have one colour each, which does not depend much on the class
    generation = Generation(tmp_path, classes=COLORS, is_tinted=True)
    write_color_classifier(generation.settings.classifier)
    unfiltered, filtered = generation.job({"red": 30}, n=30), generation.job({"red": 30}, min_confidence=0.6)

    generation.run(unfiltered)
    accepted = {name for name, png in generation.pngs(unfiltered).items() if redness(png) >= 0.6}
    generation.run(filtered)

    # Then the accepted draws among the first 30 are the same, and further ones follow
    names = generation.pngs(filtered)
    assert len(names) == 30
    assert {name for name in names if int(name[-10:-4]) < 30} == accepted
    assert 0 < len(accepted) < 30
    assert all(redness(png) >= 0.6 for png in names.values())
    manifest = generation.manifest
    assert manifest.rejected == manifest.rejected_by_class["red"] == max(int(name[-10:-4]) for name in names) + 1 - 30
    assert manifest.min_confidence == 0.6
    assert manifest.classifier


def test_a_filtered_job_resumes_with_the_same_bytes(tmp_path: Path) -> None:
    generation = Generation(tmp_path, classes=COLORS, is_tinted=True)
    write_color_classifier(generation.settings.classifier)
    first, second = (generation.job({"red": 25, "blue": 15}, min_confidence=0.5) for _ in range(2))
    generation.run(first)
    expected, manifest = generation.shards(first), generation.manifest

    assert not generation.run(second, leave_after(8))
    assert 0 < len(list(generation.datasets.committed(second.id))) < len(expected)
    generation.run(second)

    assert generation.shards(second) == expected
    assert generation.manifest == manifest


def test_an_unconditional_model_makes_classes_by_rejection(tmp_path: Path) -> None:
    generation = Generation(tmp_path, conditional=False, is_tinted=True, spoiled_class=None)
    write_color_classifier(generation.settings.classifier)
    first, second = (generation.job({"red": 12, "blue": 25}) for _ in range(2))
    generation.run(first)
    pngs, manifest = generation.pngs(first), generation.manifest

    assert Counter(name.partition("/")[0] for name in pngs) == {"red": 12, "blue": 25}
    assert all(redness(png) >= 0.5 for name, png in pngs.items() if name.startswith("red"))
    assert manifest.rejected > 0
    assert manifest.rejected_by_class == {}

    assert not generation.run(second, leave_after(5))
    generation.run(second)
    assert generation.pngs(second) == pngs
    assert generation.manifest == manifest


def test_images_without_a_class_lie_at_the_top(tmp_path: Path) -> None:
    generation = Generation(tmp_path, conditional=False)
    job = generation.job({}, n=12)

    generation.run(job)

    assert sorted(generation.pngs(job)) == [f"0-{number:06d}.png" for number in range(12)]
    assert generation.manifest.classes == {}


def test_a_class_that_the_classifier_never_accepts_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.trainer.generation.selection.MAX_REJECTED", 200)
    generation = Generation(tmp_path, classes=COLORS, is_tinted=True)
    write_color_classifier(generation.settings.classifier)

    with pytest.raises(BadConfig, match="none of 200 images in a row as red at min_confidence 1"):
        generation.run(generation.job({"red": 5}, min_confidence=1.0))


def test_a_model_that_was_replaced_after_the_submission_is_refused(generation: Generation) -> None:
    job = generation.job({"cat": 5})
    other = job.model_copy(update={"config": job.config.model_copy(update={"model_digest": "0" * 64})})

    with pytest.raises(BadConfig, match="model first has been replaced"):
        generation.run(other)


def test_a_model_that_was_deleted_or_damaged_fails_with_a_reason(generation: Generation) -> None:
    job = generation.job({"cat": 5})
    key = f"models/first/{generation.model.digest[:16]}.generator.onnx"
    generation.artifacts.write(key, b"damaged")
    with pytest.raises(EnvironmentFailed, match="does not match the digest"):
        generation.run(job)

    generation.artifacts.delete("models/first/manifest.json")
    with pytest.raises(BadConfig, match="deleted after this job was submitted"):
        generation.run(job)


def leave_after(calls: int) -> Callable[[], StopSignal | None]:
    """A process that receives SIGTERM after so much work."""
    counter = itertools.count()
    return lambda: "leave" if next(counter) >= calls else None


def redness(png: bytes) -> float:
    """What the colour classifier computes: the share of red in softmax(4 * mean of each channel in [-1, 1])."""
    with Image.open(io.BytesIO(png)) as image:
        means = np.asarray(image).astype(np.float64).mean((0, 1)) / 127.5 - 1
    odds = np.exp(4 * means)
    return float(odds[0] / odds.sum())
