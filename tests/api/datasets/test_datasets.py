"""Data sets over HTTP: push, list, show, preview, delete, and what refuses each of them."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api.app import create_app
from services.api.datasets import push
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.datasets import PushedDatasets, slug
from tests.api.datasets.archives import as_tar, as_zip, files_below, flowers, png
from tests.api.test_bad_input import assert_problem
from tests.shared.conftest import LimitedDisk, limited_disk

__all__ = ["limited_disk"]


def names(client: TestClient) -> list[str]:
    return [dataset["name"] for dataset in client.get("/datasets").json()["data"]]


def stored(settings: Settings) -> dict[str, bytes]:
    """All files of pushed data sets in the artifact store, and of unfinished pushes."""
    return files_below(settings.data / "artifacts" / "datasets") | files_below(settings.data / "uploads")


def test_a_pushed_data_set_is_listed_and_shown(client: TestClient) -> None:
    files = flowers() | {"train/rose/broken.png": png()[:40], "train/rose/notes.txt": b"buy more roses"}

    answer = client.put("/datasets/my flowers", content=as_zip(files))

    assert (answer.status_code, answer.headers["location"]) == (201, "/datasets/my-flowers")
    dataset = answer.json()
    assert (dataset["name"], dataset["display_name"], dataset["source"]) == ("my-flowers", "my flowers", "pushed")
    assert dataset["counts"] == {"train": {"daisy": 3, "rose": 3}}
    assert [file["path"] for file in dataset["report"]["damaged"]] == ["train/rose/broken.png"]
    assert [file["path"] for file in dataset["report"]["ignored"]] == ["train/rose/notes.txt"]
    assert dataset["report"]["resolutions"] == {"8x8": 6}
    assert client.get("/datasets/my-flowers").json() == client.get("/datasets/my flowers").json() == dataset
    assert names(client) == ["cifar10", "my-flowers"]


def test_the_preview_shows_a_row_for_each_class(client: TestClient) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))

    answer = client.get("/datasets/flowers/preview.png")

    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as sheet:
        assert sheet.size == (128 + 10 * 66, 2 * 66)
        with Image.open(io.BytesIO(png(0))) as first:
            assert sheet.getpixel((128 + 32, 32)) == first.getpixel((4, 4))
        assert sheet.getpixel((128 + 3 * 66 + 32, 32)) == (255, 255, 255)  # the class has three images


def test_the_same_files_in_another_archive_change_nothing(client: TestClient, settings: Settings) -> None:
    first = client.put("/datasets/flowers", content=as_zip(flowers()))
    before = stored(settings)

    again = client.put("/datasets/flowers", content=as_tar(dict(reversed(flowers().items())), "gz"))

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert stored(settings) == before


def test_other_files_replace_the_data_set(client: TestClient, settings: Settings) -> None:
    first = client.put("/datasets/flowers", content=as_zip(flowers())).json()

    second = client.put("/datasets/flowers", content=as_zip(flowers(per_class=4)))

    assert second.status_code == 200
    assert second.json()["digest"] != first["digest"]
    assert client.get("/datasets/flowers").json()["images"] == 8
    assert len(stored(settings)) == 3  # manifest, archive, preview


def submit(client: TestClient, dataset: str) -> str:
    answer = client.post("/jobs", json={"preset": "tiny", "dataset": dataset})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_data_set_is_neither_deleted_nor_replaced_while_a_job_needs_it(client: TestClient) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))
    job_id = submit(client, "flowers")
    client.post(f"/jobs/{job_id}/pause")

    assert_problem(client.delete("/datasets/flowers"), 409)
    assert job_id in client.delete("/datasets/flowers").json()["detail"]
    other = client.put("/datasets/flowers", content=as_zip(flowers(per_class=4)))
    assert (other.status_code, job_id in other.json()["detail"]) == (409, True)
    assert client.put("/datasets/flowers", content=as_zip(flowers())).status_code == 200

    client.post(f"/jobs/{job_id}/cancel")
    assert client.delete("/datasets/flowers").status_code == 204
    assert names(client) == ["cifar10"]


def test_a_running_sweep_keeps_its_data_set(client: TestClient) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))
    sweep = {
        "preset": "tiny", "dataset": "flowers", "n_trials": 1,
        "space": {"lr": {"type": "float", "low": 1e-5, "high": 1e-3}},
        "objective": {"metric": "loss_g", "direction": "minimize"},
    }  # fmt: skip
    sweep_id = client.post("/sweeps", json=sweep).json()["id"]

    assert client.delete("/datasets/flowers").status_code == 409
    client.post(f"/sweeps/{sweep_id}/cancel")


def test_deleting_leaves_no_file(client: TestClient, settings: Settings) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))

    client.delete("/datasets/flowers")

    assert stored(settings) == {}
    assert_problem(client.get("/datasets/flowers"), 404)
    assert_problem(client.get("/datasets/flowers/preview.png"), 404)
    assert_problem(client.delete("/datasets/flowers"), 404)


# Folders


@pytest.fixture
def folder(settings: Settings) -> Path:
    """A folder below KILN_DATASETS whose name is no name of a data set."""
    folder = settings.dataset_root / "my photos"
    for name, data in flowers().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_is_listed_and_shown_like_a_pushed_data_set(client: TestClient, folder: Path) -> None:
    pushed = client.put("/datasets/flowers", content=as_zip(flowers())).json()

    _, _, listed = client.get("/datasets").json()["data"]
    shown = client.get("/datasets/my-photos").json()

    assert (listed["name"], listed["display_name"], listed["source"]) == ("my-photos", "my photos", "folder")
    assert listed["counts"] == shown["counts"] == pushed["counts"]
    assert shown["report"] == pushed["report"]
    assert client.get("/datasets/my-photos/preview.png").content == client.get("/datasets/flowers/preview.png").content


def test_the_report_on_a_folder_follows_its_files(client: TestClient, folder: Path) -> None:
    assert client.get("/datasets/my-photos").json()["images"] == 6

    (folder / "train" / "rose" / "new.png").write_bytes(png(9))

    assert client.get("/datasets/my-photos").json()["images"] == 7


def test_a_folder_is_neither_replaced_nor_deleted(client: TestClient, folder: Path) -> None:
    for name in ("my photos", "my-photos", "cifar10"):
        assert_problem(client.put(f"/datasets/{name}", content=as_zip(flowers())), 409)
        assert_problem(client.delete(f"/datasets/{name}"), 409)
    assert len(files_below(folder)) == 6


def test_a_folder_that_is_no_data_set_is_listed_with_its_problem(client: TestClient, settings: Settings) -> None:
    (settings.dataset_root / "empty").mkdir(parents=True)

    dataset = client.get("/datasets/empty").json()

    assert "no images" in dataset["problem"]
    assert str(settings.dataset_root) not in dataset["problem"]
    assert (dataset["images"], dataset["report"]) == (None, None)


# Jobs


def test_a_job_on_an_unknown_data_set_is_refused_with_the_names_of_all(client: TestClient, folder: Path) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))

    answer = client.post("/jobs", json={"preset": "tiny", "dataset": "flower"})

    assert_problem(answer, 422, "dataset", "flower")
    assert answer.json()["errors"][0]["message"] == (
        "there is no such data set; did you mean 'flowers'?; there are cifar10, flowers, my-photos"
    )
    for name in ("flowers", "my-photos", "cifar10"):
        submit(client, name)


# What is refused


def test_an_archive_without_images_is_refused(client: TestClient, settings: Settings) -> None:
    for files in ({}, {"readme.txt": b"hello"}):
        answer = client.put("/datasets/flowers", content=as_zip(files))

        assert_problem(answer, 422, "archive", "flowers")
        assert str(settings.data) not in answer.text
    assert_problem(client.put("/datasets/flowers", content=b""), 422, "archive", "")
    assert stored(settings) == {}


def test_a_body_above_the_limit_is_refused(settings: Settings) -> None:
    small = settings.model_copy(update={"max_dataset_gb": 1e-5})  # 10 kB
    with TestClient(create_app(small)) as client:
        body = as_tar(flowers(per_class=20))

        declared = client.put("/datasets/flowers", content=body)
        streamed = client.put("/datasets/flowers", content=iter([body[:20_000], body[20_000:]]))

        for answer in (declared, streamed):
            assert_problem(answer, 413)
            assert "KILN_MAX_DATASET_GB" in answer.json()["detail"]
        assert names(client) == ["cifar10"]
    assert stored(settings) == {}


def test_a_full_disk_is_reported_and_leaves_the_previous_version(
    client: TestClient, settings: Settings, limited_disk: LimitedDisk
) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))
    before = stored(settings)
    with limited_disk(30_000):
        answer = client.put("/datasets/flowers", content=as_tar(flowers(per_class=200)))

    assert_problem(answer, 507)
    assert stored(settings) == before
    assert client.get("/datasets/flowers").json()["images"] == 6


@pytest.mark.parametrize("written", ["copy_in", "write"])
def test_a_crash_before_the_manifest_leaves_the_previous_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.put("/datasets/flowers", content=as_zip(flowers()))
        before = client.get("/datasets/flowers").json()

        original = getattr(ArtifactStore, written)

        def cut(*arguments: Any) -> None:
            original(*arguments)
            raise OSError("the power is cut")

        with monkeypatch.context() as patch:
            patch.setattr(ArtifactStore, written, cut)
            assert client.put("/datasets/flowers", content=as_zip(flowers(per_class=4))).status_code == 500
            assert client.put("/datasets/trees", content=as_zip(flowers(per_class=4))).status_code == 500

        assert client.get("/datasets/flowers").json() == before
        assert names(client) == ["cifar10", "flowers"]
        assert client.put("/datasets/trees", content=as_zip(flowers())).status_code == 201


def test_two_pushes_at_once_give_one_complete_data_set(client: TestClient, settings: Settings) -> None:
    archives = [as_zip(flowers(per_class=number)) for number in (2, 3, 4, 5)]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda data: client.put("/datasets/flowers", content=data), archives))

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    dataset = client.get("/datasets/flowers").json()
    assert dataset in [answer.json() for answer in answers]
    store = PushedDatasets(ArtifactStore(settings.artifact_url))
    store.unpack(store.get("flowers"), settings.data / "copy", settings.data / "copy.tar")
    assert len(files_below(settings.data / "copy")) == dataset["images"]
    assert len(stored(settings)) == 3


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my photos", "my-photos"), ("flowers", "flowers"), ("Flowers_2.1", "Flowers_2.1"), ("Blüten", "Bluten"),
        ("  a / b  ", "a-b"), (".hidden", "hidden"), ("..", "dataset-5ec1f7e7"), ("猫", "dataset-77d4d6a3"),
        ("x" * 150, "x" * 100), ("Straße (alt)", "Strae-alt"),
    ],
)  # fmt: skip
def test_any_name_becomes_a_name_for_urls(name: str, expected: str) -> None:
    assert slug(name) == expected if not expected.startswith("dataset-") else slug(name).startswith("dataset-")
    assert slug(slug(name)) == slug(name)


@pytest.fixture
def leftover(settings: Settings) -> Path:
    folder = settings.data / "uploads" / "of-a-killed-process"
    folder.mkdir(parents=True)
    (folder / "archive").write_bytes(b"half")
    return folder


def test_an_upload_of_a_killed_process_is_removed_by_a_later_push(
    client: TestClient, leftover: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("/datasets/flowers", content=as_zip(flowers()))
    assert leftover.exists()

    monkeypatch.setattr(push, "LEFTOVER_AGE_S", -1.0)
    client.put("/datasets/flowers", content=as_zip(flowers()))
    assert not leftover.exists()
