"""Sample grids, loss curves and comparisons of finished jobs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api.jobs.sample_grids import spread
from shared.jobs import transitions
from shared.jobs.record import Job, JobStatus
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelMetrics, ModelRegistry
from tests.shared.examples import a_job, a_model

ROWS = [
    {"nimg": 100.0, "loss_d": 1.4, "loss_g": 0.7, "d_accuracy_real": 0.5, "d_accuracy_fake": 0.5},
    {"nimg": 200.0, "loss_d": 0.6, "loss_g": 1.2, "d_accuracy_real": 0.9, "d_accuracy_fake": 0.8},
]


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore(settings.redis_url)
    yield store
    store.close()


def trained(store: RedisJobStore, settings: Settings, name: str, grids: int = 0) -> Job:
    """A succeeded job, with a grid of one colour after each hundred images."""
    job, _ = store.create(lambda now: a_job(now).model_copy(update={"name": name}))
    store.update(job.id, partial(transitions.claim, worker="w", lease_s=60))
    store.update(job.id, partial(transitions.finish, fence=1, status=JobStatus.SUCCEEDED), ROWS)
    artifacts = ArtifactStore(settings.artifact_url)
    for number in range(grids):
        buffer = io.BytesIO()
        Image.new("RGB", (320, 320), (10 * number, 0, 0)).save(buffer, "PNG")
        artifacts.write(f"jobs/{job.id}/samples/{100 * number:012d}.png", buffer.getvalue())
    return job


def pixels(png: bytes) -> np.ndarray:
    """[H, W, 3]"""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_sample_grids_are_listed_and_returned(client: TestClient, store: RedisJobStore, settings: Settings) -> None:
    job = trained(store, settings, "mine", grids=3)

    listed = client.get(f"/jobs/{job.id}/samples").json()["data"]

    assert [sample["nimg"] for sample in listed] == [0, 100, 200]
    assert [pixels(client.get(sample["url"]).content)[0, 0, 0] for sample in listed] == [0, 10, 20]


def test_a_strip_spans_the_training_from_first_to_last_grid(
    client: TestClient, store: RedisJobStore, settings: Settings
) -> None:
    job = trained(store, settings, "mine", grids=5)

    strip = pixels(client.get(f"/jobs/{job.id}/samples.png", params={"count": 3}).content)

    assert strip.shape == (320, 3 * 320 + 2 * 8, 3)
    assert [strip[0, left, 0] for left in (0, 328, 656)] == [0, 20, 40]


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [4]), (2, [0, 4]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_grids_are_spread_evenly(count: int, chosen: list[int]) -> None:
    assert spread(range(5), count) == chosen


def test_a_strip_of_epochs_shows_the_grids_nearest_to_them(
    client: TestClient, store: RedisJobStore, settings: Settings
) -> None:
    # Given grids after 0, 100, ... 400 images, and a data set of 40
    job = trained(store, settings, "mine", grids=5)
    query: dict[str, str | int] = {"epochs": "3,10,11,2", "images_per_epoch": 40}
    # When a client requests epochs that end after 120, 400, 440 and 80 images
    strip = pixels(client.get(f"/jobs/{job.id}/samples.png", params=query).content)
    # Then it gets the nearest grid of each, in the order of the request, without repeats
    assert strip.shape == (320, 2 * 320 + 8, 3)
    assert [strip[0, left, 0] for left in (0, 328)] == [10, 40]


@pytest.mark.parametrize("epochs", ["", "ten", "1,,2", "-1", "1.5", "1," * 20 + "1", "9" * 7])
def test_invalid_epochs_are_refused(client: TestClient, store: RedisJobStore, settings: Settings, epochs: str) -> None:
    job = trained(store, settings, "mine", grids=1)
    answer = client.get(f"/jobs/{job.id}/samples.png", params={"epochs": epochs})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "epochs"


@pytest.mark.parametrize("path", ["samples/100.png", "samples.png", "samples/999999999999.png"])
def test_a_missing_grid_is_a_404(client: TestClient, store: RedisJobStore, settings: Settings, path: str) -> None:
    job = trained(store, settings, "mine")

    assert client.get(f"/jobs/{job.id}/{path}").status_code == 404
    assert client.get(f"/jobs/nothing/{path}").status_code == 404


@pytest.mark.parametrize("nimg", ["-1", "x", "1.5", str(10**12), "..", "%2e%2e%2fx"])
def test_an_invalid_position_is_refused(
    client: TestClient, store: RedisJobStore, settings: Settings, nimg: str
) -> None:
    job = trained(store, settings, "mine", grids=1)

    assert client.get(f"/jobs/{job.id}/samples/{nimg}.png").status_code in (404, 422)


def test_loss_curves_show_both_losses_in_their_colours(
    client: TestClient, store: RedisJobStore, settings: Settings
) -> None:
    job = trained(store, settings, "mine")
    empty, _ = store.create(a_job)

    drawn = pixels(client.get(f"/jobs/{job.id}/losses.png", params={"images_per_epoch": 100}).content)
    blank = pixels(client.get(f"/jobs/{empty.id}/losses.png").content)

    assert drawn.shape == (450, 800, 3)
    for color in ((255, 127, 14), (31, 119, 180)):  # matplotlib's tab:orange and tab:blue
        assert count(drawn, color) > 100
        assert count(blank, color) == 0


def test_jobs_are_compared_as_json_csv_markdown_and_png(
    client: TestClient, store: RedisJobStore, settings: Settings
) -> None:
    first, second = trained(store, settings, "first", grids=2), trained(store, settings, "a|b")
    wanted = {"jobs": f"{first.id},{second.id}"}

    rows = client.get("/compare", params=wanted).json()["data"]
    table = client.get("/compare", params=wanted, headers={"accept": "text/csv"}).text
    text = client.get("/compare", params=wanted, headers={"accept": "text/markdown"}).text
    drawn = pixels(client.get("/compare", params=wanted, headers={"accept": "image/png"}).content)

    assert [row["name"] for row in rows] == ["first", "a|b"]
    assert (rows[0]["initial_loss_d"], rows[0]["final_loss_d"], rows[0]["final_loss_g"]) == (1.4, 0.6, 1.2)
    assert (rows[0]["d_accuracy_real"], rows[0]["d_accuracy_fake"], rows[0]["fid"]) == (0.9, 0.8, None)
    assert [row["name"] for row in csv.DictReader(io.StringIO(table))] == ["first", "a|b"]
    assert "| a\\|b |" in text
    assert len({line.replace("\\|", "").count("|") for line in text.splitlines()}) == 1
    assert count(drawn, (10, 0, 0)) > 1000  # the first job's latest grid


def test_a_comparison_has_the_losses_of_the_first_and_the_last_epoch(
    client: TestClient, store: RedisJobStore, settings: Settings
) -> None:
    # Given a run of 250 images, in rows of 50, 150 and 50
    job = trained(store, settings, "mine")
    more = [{"nimg": nimg, "loss_d": loss, "loss_g": 0.0} for nimg, loss in ((50.0, 1.0), (200.0, 3.0), (250.0, 5.0))]
    longer, _ = store.create(a_job)
    store.update(longer.id, lambda job, _: job, more)

    def ends(job_id: str, **query: int) -> tuple[float, float]:
        (row,) = client.get("/compare", params={"jobs": job_id, **query}).json()["data"]
        return row["initial_loss_d"], row["final_loss_d"]

    # When an epoch is one row, less than a row, more than a row, and more than half of the run
    assert ends(longer.id, images_per_epoch=50) == (1.0, 5.0)
    assert ends(longer.id, images_per_epoch=25) == (1.0, 5.0)
    assert ends(longer.id, images_per_epoch=100) == ((1.0 + 3.0) / 2, (3.0 + 5.0) / 2)
    assert ends(longer.id, images_per_epoch=126) == (1.0, 5.0)
    assert ends(job.id) == (1.4, 0.6)  # the run is shorter than an epoch of CIFAR-10


def test_a_comparison_has_differing_config_fields_and_model_metrics(
    client: TestClient, store: RedisJobStore, settings: Settings, registry: ModelRegistry
) -> None:
    model = a_model("m").model_copy(update={"metrics": ModelMetrics(fid=12.0, recall=0.5)})
    registry.publish(model, {"generator.onnx": b"graph"})
    first, second = trained(store, settings, "same"), trained(store, settings, "same")
    changed = first.config.model_copy(update={"lr": 0.5, "d_channels": (1, 2, 3)})
    store.update(second.id, lambda job, _: job.model_copy(update={"config": changed, "model_id": "m"}))
    wanted = {"jobs": f"{first.id},{second.id}"}

    rows = client.get("/compare", params=wanted).json()["data"]
    text = client.get("/compare", params=wanted, headers={"accept": "text/markdown"}).text

    assert [row["config"] for row in rows] == [
        {"d_channels": list(first.gan_config.d_channels), "lr": first.gan_config.lr},
        {"d_channels": [1, 2, 3], "lr": 0.5},
    ]
    assert [(row["fid"], row["recall"], row["kid"]) for row in rows] == [(None, None, None), (12.0, 0.5, None)]
    assert rows[0]["name"] != rows[1]["name"]  # equal labels would hide one of the jobs in the plot
    assert "| lr |" in text.splitlines()[0]
    assert "| 0.5 |" in text.splitlines()[-1]


@pytest.mark.parametrize("wanted", ["", ",", " , ", ",".join(str(number) for number in range(21))])
def test_a_comparison_of_no_job_or_too_many_jobs_is_refused(client: TestClient, wanted: str) -> None:
    answer = client.get("/compare", params={"jobs": wanted})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "jobs"


def test_a_comparison_with_an_unknown_job_is_a_404(client: TestClient) -> None:
    assert client.get("/compare", params={"jobs": "nothing"}).status_code == 404


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    """Number of pixels of that colour, up to rounding."""
    return int((np.abs(image.astype(int) - color).max(axis=2) <= 2).sum())
