"""Checks at submission: the data set of a warm start, and metrics that need a classifier of the same classes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.configs.presets import resolve
from shared.jobs.record import Job, new_job
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.test_bad_input import assert_problem
from tests.shared.examples import a_model

SWEEP = {
    "space": {"lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}},
    "objective": {"metric": "loss_g", "direction": "minimize"},
    "n_trials": 1,
}
WATCHED = {"eval_images": 100, "eval_every_nimg": 1000}


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore(settings.redis_url)
    yield store
    store.close()


def trained(settings: Settings, store: RedisJobStore, dataset: str, **overrides: Any) -> Job:
    """A job on the data set, with a checkpoint after 2,000 images."""
    config = resolve("tiny", overrides)
    job, _ = store.create(partial(new_job, preset="tiny", config=config, dataset=dataset, name=None))
    ArtifactStore(settings.artifact_url).write(f"jobs/{job.id}/checkpoints/0001-000000002000.ckpt", b"")
    return job


def make_dataset(settings: Settings, name: str, *classes: str) -> None:
    for label in classes:
        (settings.dataset_root / name / "train" / label).mkdir(parents=True)


def publish(registry: ModelRegistry, job_id: str, dataset: str, *classes: str) -> None:
    manifest = a_model(f"tiny-{job_id}").model_copy(update={"job_id": job_id, "dataset": dataset, "classes": classes})
    registry.publish(manifest, {"generator.onnx": b"graph"})


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_a_job_continues_a_checkpoint_on_its_data_set(
    client: TestClient, settings: Settings, store: RedisJobStore, query: str
) -> None:
    job = trained(settings, store, "insects")
    body = {"preset": "tiny", "overrides": {"from_checkpoint": job.id}}

    assert client.post(f"/jobs{query}", json=body).json()["dataset"] == "insects"
    assert client.post(f"/jobs{query}", json=body | {"dataset": "flowers"}).json()["dataset"] == "flowers"
    # A new discriminator's first weights say nothing about the data set
    other = {"preset": "tiny", "overrides": {"init_discriminator_from": job.id}}
    assert client.post(f"/jobs{query}", json=other).json()["dataset"] == "cifar10"


def test_the_data_set_of_a_checkpoint_is_known_from_its_model(
    client: TestClient, settings: Settings, registry: ModelRegistry
) -> None:
    # Given a checkpoint whose job the store has lost, and the model of that job
    ArtifactStore(settings.artifact_url).write("jobs/lost/checkpoints/0001-000000002000.ckpt", b"")
    publish(registry, "lost", "insects", "ant", "bee")

    body = {"preset": "tiny", "overrides": {"from_checkpoint": "lost"}}

    assert client.post("/jobs", json=body).json()["dataset"] == "insects"
    # And its config is checked as well
    wider = {"preset": "tiny", "overrides": {"from_checkpoint": "lost", "latent_dim": 100}}
    assert_problem(client.post("/jobs", json=wider), 422, "overrides.from_checkpoint", "lost")


def test_a_sweep_continues_a_checkpoint_on_its_data_set(
    client: TestClient, settings: Settings, store: RedisJobStore
) -> None:
    job = trained(settings, store, "insects")
    sweep = client.post("/sweeps", json=SWEEP | {"preset": "tiny", "overrides": {"from_checkpoint": job.id}}).json()

    assert sweep["dataset"] == "insects"
    assert client.get(f"/jobs/{sweep['trials'][0]['job_id']}").json()["dataset"] == "insects"


def test_a_checkpoint_of_other_classes_is_refused_in_words(
    client: TestClient, settings: Settings, store: RedisJobStore
) -> None:
    make_dataset(settings, "insects", "ant", "bee")
    job = trained(settings, store, "cifar10")
    body = {"preset": "tiny", "overrides": {"from_checkpoint": job.id}, "dataset": "insects"}

    for path, more in (("/jobs", {}), ("/jobs?dry_run=true", {}), ("/sweeps", SWEEP)):
        problem = assert_problem(client.post(path, json=body | more), 422, "dataset", "insects")["errors"][0]
        assert "on data set 'cifar10' with 10 classes: airplane, automobile" in problem["message"]
        assert "This data set has 2 classes: ant, bee." in problem["message"]
    assert [listed["id"] for listed in client.get("/jobs").json()["data"]] == [job.id]


def test_a_renamed_class_is_noticed_when_a_checkpoint_is_continued(
    client: TestClient, settings: Settings, store: RedisJobStore, registry: ModelRegistry
) -> None:
    # Given a job whose model knows bees, and a folder in which the class has another name since
    job = trained(settings, store, "insects")
    publish(registry, job.id, "insects", "ant", "bee")
    make_dataset(settings, "insects", "ant", "zebra")

    answer = client.post("/jobs", json={"preset": "tiny", "overrides": {"from_checkpoint": job.id}})

    assert "2 classes: ant, zebra" in assert_problem(answer, 422, "dataset", "insects")["errors"][0]["message"]


def test_only_the_number_of_classes_matters_to_a_discriminator_and_none_to_unconditional_networks(
    client: TestClient, settings: Settings, store: RedisJobStore
) -> None:
    make_dataset(settings, "insects", "ant", "bee")
    make_dataset(settings, "pets", "cat", "dog")
    make_dataset(settings, "birds", "owl", "rook", "wren")
    job = trained(settings, store, "insects")
    plain = trained(settings, store, "insects", conditional=False)

    def status(dataset: str, **overrides: Any) -> int:
        body = {"preset": "tiny", "overrides": overrides, "dataset": dataset}
        return client.post("/jobs", json=body).status_code

    assert status("pets", init_discriminator_from=job.id) == 202
    assert status("birds", init_discriminator_from=job.id) == 422
    assert status("birds", from_checkpoint=plain.id, conditional=False) == 202
    # The API has a folder of data sets, so it knows that there is no other
    assert status("elsewhere", from_checkpoint=job.id) == 422


def test_an_api_without_a_folder_of_data_sets_leaves_the_check_to_the_trainer(
    client: TestClient, settings: Settings
) -> None:
    assert not settings.dataset_root.exists()

    assert client.post("/jobs", json={"preset": "tiny", "dataset": "elsewhere"}).status_code == 202


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_early_stopping_on_a_metric_that_cannot_be_measured_is_refused(
    client: TestClient, settings: Settings, query: str
) -> None:
    make_dataset(settings, "insects", "ant", "bee")
    stop = {"metric": "class_accuracy", "patience": 3, "minimum": 0.0}
    body = {"preset": "tiny", "overrides": WATCHED | {"early_stop": stop}}

    answer = client.post(f"/jobs{query}", json=body | {"dataset": "insects"})

    message = assert_problem(answer, 422, "overrides.early_stop", str(stop))["errors"][0]["message"]
    assert "data set 'insects' has 2 classes: ant, bee; the classifier has 10 classes: airplane" in message
    # The classifier knows CIFAR-10, and other metrics need no classes
    assert client.post(f"/jobs{query}", json=body).status_code in (200, 202)
    fid = {"preset": "tiny", "overrides": WATCHED | {"early_stop": stop | {"metric": "fid"}}, "dataset": "insects"}
    assert client.post(f"/jobs{query}", json=fid).status_code in (200, 202)


def test_a_sweep_for_a_metric_that_cannot_be_measured_is_refused(client: TestClient, settings: Settings) -> None:
    make_dataset(settings, "insects", "ant", "bee")
    body = SWEEP | {
        "preset": "tiny", "overrides": WATCHED, "objective": {"metric": "class_accuracy", "direction": "maximize"},
    }  # fmt: skip

    assert_problem(
        client.post("/sweeps", json=body | {"dataset": "insects"}), 422, "objective.metric", "class_accuracy"
    )
    assert client.get("/jobs").json()["data"] == []
    assert client.post("/sweeps", json=body).status_code == 202
