"""Data sets over HTTP: submitting a generate job, and downloading what it made."""

from __future__ import annotations

import io
import math
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api.app import create_app
from services.api.jobs.dataset_archive import merge_zips, stream_archive
from services.api.jobs.generated import shard_images_of
from services.trainer.generation.run import run_job
from shared.configs.generate import DatasetFormat
from shared.jobs.trainer_messages import DatasetLine, TrainerLine
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.generated_datasets import (
    DatasetManifest,
    GeneratedDatasets,
    Position,
    ShardRecord,
    describe_shard,
)
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, publish, wait_until_ready
from tests.api.graphs import make_generator, write_color_classifier
from tests.shared.examples import a_model


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a classifier of red, green and blue."""
    settings = settings.model_copy(update={"classifier": settings.data / "classifier"})
    write_color_classifier(settings.classifier)
    return settings


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """An API that serves the conditional model `first`, and has the unconditional one `free`."""
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    publish(registry, "first")
    publish(registry, "free", conditional=False, graph=make_generator(8, len(CLASSES), is_tinted=True))
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def generated(client: TestClient, settings: Settings, **body: Any) -> str:
    """Submits a job, makes its data set as a worker does, and returns the job's id."""
    answer = client.post("/jobs", json={"kind": "generate"} | body)
    assert answer.status_code == 202, answer.text
    job = client.app.state.kiln.store.get(answer.json()["id"])  # type: ignore[attr-defined]
    small = job.model_copy(update={"config": job.config.model_copy(update={"shard_images": 7})})
    lines: list[TrainerLine] = []
    run_job(small, settings, lines.append, lambda: None)
    (manifest,) = [line.manifest for line in lines if isinstance(line, DatasetLine)]
    GeneratedDatasets(ArtifactStore(settings.artifact_url)).write_manifest(job.id, manifest)
    return str(job.id)


def test_a_generate_job_is_queued_with_a_resolved_config(client: TestClient) -> None:
    answer = client.post("/jobs", json={"kind": "generate", "n": 23, "name": "more"})

    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], job["preset"], job["dataset"], job["name"]) == ("generate", "generate", "cifar10", "more")
    assert (job["status"], job["progress"]["images_total"]) == ("queued", 23)
    assert job["config"]["model"] == "first"
    assert job["config"]["classes"] == {name: 3 if number < 3 else 2 for number, name in enumerate(CLASSES)}
    assert job["links"]["download"] == f"/jobs/{job['id']}/dataset/download"
    assert client.get(answer.headers["location"]).json() == job
    assert client.get(f"/jobs/{job['id']}/dataset").status_code == 404


@pytest.mark.parametrize("path", ["metrics", "events", "samples", "samples.png", "losses.png"])
def test_pages_of_training_jobs_do_not_fail_for_a_generate_job(client: TestClient, path: str) -> None:
    job_id = client.post("/jobs", json={"kind": "generate", "n": 5}).json()["id"]

    assert client.get(f"/jobs/{job_id}/{path}").status_code in (200, 404)
    assert client.get("/compare", params={"jobs": job_id}).json()["data"][0]["config"] == {}
    assert client.post("/jobs", json={"preset": "tiny", "overrides": {"from_checkpoint": job_id}}).status_code == 422


@pytest.mark.parametrize(("resolution", "images"), [(32, 1000), (128, 1000), (256, 341)])
def test_files_of_large_images_hold_fewer_of_them(resolution: int, images: int) -> None:
    """341 images of 256 pixels in three channels of a byte are 67 million bytes, just below 64 MiB."""
    assert shard_images_of(a_model().model_copy(update={"resolution": resolution})) == images


def test_a_dry_run_of_a_generate_job_creates_none(client: TestClient) -> None:
    body = {"kind": "generate", "model": "default", "classes": {"cat": 5, "dog": 0}, "format": "webdataset", "seed": 9}
    answer = client.post("/jobs?dry_run=true", json=body)

    assert answer.status_code == 200
    config = answer.json()["config"]
    assert (config["model"], config["classes"], config["n"], config["seed"]) == ("first", {"cat": 5}, 5, 9)
    assert client.get("/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "body", "exactly one of n, classes and balance"),
        ({"n": 5, "classes": {"cat": 5}}, "body", "exactly one of n, classes and balance"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": "5"}, "n", "valid integer"),
        ({"classes": {"cat": 0}}, "classes", "1 to 10,000,000 images"),
        ({"classes": {"cta": 5}}, "classes", "did you mean 'cat'"),
        ({"n": 5, "format": "zip"}, "format", "'imagefolder' or 'webdataset'"),
        ({"n": 5, "model": "gone"}, "model", "no model or alias"),
        ({"n": 5, "preset": "tiny"}, "preset", "unknown field"),
        ({"n": 5, "min_confidence": 0.9}, "classes", "the classifier has 3 classes: red, green, blue"),
        ({"model": "free", "n": 5, "min_confidence": 0.9}, "min_confidence", "images without a class"),
        ({"model": "free", "classes": {"red": 5}, "min_confidence": 0.4}, "min_confidence", "at least 0.5"),
        ({"model": "free", "classes": {"cat": 5}}, "classes", "the classifier has"),
        ({"balance": {"dataset": "mine"}}, "balance.dataset", "no folder of this data set"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_work_is_refused(
    client: TestClient, body: dict[str, Any], field: str, words: str
) -> None:
    answer = client.post("/jobs", json={"kind": "generate"} | body)

    assert answer.status_code == 422, answer.text
    (problem,) = answer.json()["errors"]
    assert problem["field"] == field
    assert words in problem["message"]
    assert client.get("/jobs").json()["data"] == []


def test_balance_fills_up_each_class_to_the_largest(client: TestClient, settings: Settings) -> None:
    # Given a data set with 5 cats, 2 dogs and 4 frogs
    for name, count in (("cat", 5), ("dog", 2), ("frog", 4)):
        folder = settings.dataset_root / "mine" / "train" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 32)).save(folder / f"{number}.png")

    answer = client.post("/jobs?dry_run=true", json={"kind": "generate", "balance": {"dataset": "mine"}})

    assert answer.json()["config"]["classes"] == {"dog": 3, "frog": 1}


def test_a_balanced_data_set_needs_nothing(client: TestClient, settings: Settings) -> None:
    for name in ("cat", "dog"):
        (folder := settings.dataset_root / "even" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "0.png")

    answer = client.post("/jobs", json={"kind": "generate", "balance": {"dataset": "even"}})

    assert answer.status_code == 422
    assert "nothing is missing" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"classes": {"cat": 9}, "seed": 3, "truncation": 0.7}, {"class": "cat", "truncation": 0.7}),
        ({"model": "free", "n": 9, "seed": 3, "compress": "none"}, {"model": "free"}),
        ({"model": "free", "classes": {"red": 9}, "seed": 3}, {"model": "free", "class": "red"}),
    ],
)
def test_every_image_is_the_file_that_generate_returns(
    client: TestClient, settings: Settings, body: dict[str, Any], query: dict[str, Any]
) -> None:
    job_id = generated(client, settings, **body)

    with zipfile.ZipFile(io.BytesIO(client.get(f"/jobs/{job_id}/dataset/download").content)) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(names) == 9
        for name in names:
            index = int(name[-10:-4])
            options = {"n": 1, "seed": 3, "first_index": index, "compress": body.get("compress", "fast")}
            png = archive.read(name)
            assert client.post("/verify", content=png).json()["reproduced"] is True, name
            assert client.get("/generate", params=query | options).content == png


def test_the_download_is_one_zip_of_all_shards(client: TestClient, settings: Settings) -> None:
    job_id = generated(client, settings, classes={"cat": 12, "dog": 8})

    manifest = client.get(f"/jobs/{job_id}/dataset").json()
    response = client.get(f"/jobs/{job_id}/dataset/download")

    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == f'attachment; filename="{job_id}.zip"'
    expected: dict[str, bytes] = {}
    for shard in manifest["shards"]:
        data = client.get(f"/jobs/{job_id}/dataset/{shard['name']}").content
        assert len(data) == shard["bytes"]
        with zipfile.ZipFile(io.BytesIO(data)) as part:
            expected |= {name: part.read(name) for name in part.namelist()}
    assert len(manifest["shards"]) == 3
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *expected]
        assert {name: archive.read(name) for name in expected} == expected


def test_the_download_of_a_webdataset_is_a_tar_of_its_shards(client: TestClient, settings: Settings) -> None:
    job_id = generated(client, settings, n=20, format="webdataset")

    response = client.get(f"/jobs/{job_id}/dataset/download")

    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        names = archive.getnames()
        assert names == ["manifest.json", "shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
        blocks = sum(1 + math.ceil(entry.size / 512) for entry in archive.getmembers()) + 2  # two empty ones at the end
        assert len(response.content) == 512 * blocks
        file = archive.extractfile("shard-00001.tar")
        assert file is not None
        assert file.read() == client.get(f"/jobs/{job_id}/dataset/shard-00001.tar").content


def test_a_missing_shard_is_refused_and_a_damaged_one_is_not_sent(client: TestClient, settings: Settings) -> None:
    job_id = generated(client, settings, n=20)
    artifacts = ArtifactStore(settings.artifact_url)

    assert client.get(f"/jobs/{job_id}/dataset/shard-00009.zip").status_code == 404
    assert client.get(f"/jobs/{job_id}/dataset/manifest.json").status_code == 422
    artifacts.write(f"jobs/{job_id}/dataset/shard-00001.zip", b"damaged")
    damaged = client.get(f"/jobs/{job_id}/dataset/shard-00001.zip")
    assert damaged.status_code == 503
    assert "does not match the digest" in damaged.json()["detail"]


@pytest.mark.parametrize("file_format", ["imagefolder", "webdataset"])
def test_a_download_holds_only_a_few_shards_in_memory(tmp_path: Path, file_format: DatasetFormat) -> None:
    # Given a data set of 24 shards of a megabyte each
    datasets, shards = GeneratedDatasets(ArtifactStore(f"file://{tmp_path}")), []
    for number in range(24):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as part:
            part.writestr(f"{number}.bin", bytes(1 << 20))
        shard = describe_shard(number, file_format, buffer.getvalue(), images=1)
        datasets.write_shard("job", number, buffer.getvalue(), ShardRecord(shard=shard, position=Position()))
        shards.append(shard)
    manifest = DatasetManifest(
        model="m", model_digest="d", trained_on="cifar10", classes={}, images=24, requested=24, format=file_format,
        seed=0, truncation=None, compress="none", min_confidence=None, classifier=None, rejected=0,
        rejected_by_class={}, shards=tuple(shards),
    )  # fmt: skip

    # When it is sent
    tracemalloc.start()
    sent = sum(map(len, stream_archive("job", manifest, datasets)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Then the memory is that of a few shards
    assert sent > 24 << 20
    assert peak < 6 << 20


def test_a_merged_zip_beyond_four_gigabytes_has_64_bit_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered from 4 GiB to 1,000 bytes; `zipfile` reads 64-bit fields wherever a field is full."""
    parts = []
    for number in range(3):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as part:
            part.writestr(f"{number}.bin", bytes([number]) * 700)
            part.writestr(f"{number}.txt", f"text {number}")
        parts.append(buffer.getvalue())
    monkeypatch.setattr("services.api.jobs.dataset_archive.LARGEST_OFFSET", 1000)

    merged = tmp_path / "merged.zip"
    merged.write_bytes(b"".join(merge_zips([lambda data=data: data for data in parts])))  # type: ignore[misc]

    with zipfile.ZipFile(merged) as archive:
        assert archive.testzip() is None
        assert [info.header_offset > 1000 for info in archive.infolist()] == [False, False, False, True, True, True]
        assert archive.read("2.bin") == bytes([2]) * 700
        assert archive.read("2.txt") == b"text 2"
