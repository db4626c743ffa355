"""Warm starts: jobs that start from another job's checkpoint, validated when they are submitted."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.configs.presets import resolve
from shared.jobs.record import new_job
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from tests.api.test_bad_input import assert_problem


@pytest.fixture
def first(settings: Settings, client: TestClient) -> str:
    """Id of a job with checkpoints after 2,000 and 4,000 images and weights after 1,000."""
    store = RedisJobStore(settings.redis_url)
    make = partial(new_job, preset="tiny", config=resolve("tiny", {}), dataset="cifar10", name=None)
    job, _ = store.create(make)
    store.close()
    artifacts = ArtifactStore(settings.artifact_url)
    for name in ("checkpoints/0001-000000002000.ckpt", "checkpoints/0001-000000004000.ckpt",
                 "weights/000000001000.safetensors"):  # fmt: skip
        artifacts.write(f"jobs/{job.id}/{name}", b"")
    return job.id


@pytest.mark.parametrize("start", ["{}", "{}@2000", "{}@1000"])
@pytest.mark.parametrize("field", ["from_checkpoint", "init_discriminator_from", "warm_start_from"])
def test_an_existing_checkpoint_is_accepted(client: TestClient, first: str, field: str, start: str) -> None:
    body = {"preset": "tiny", "overrides": {field: start.format(first)}}
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["config"][field] == start.format(first)


@pytest.mark.parametrize(
    ("overrides", "field", "message"),
    [
        ({"from_checkpoint": "{}@3000"}, "from_checkpoint",
         "job {} has no checkpoint at 3000 images; it has some at 1000, 2000, 4000"),
        ({"from_checkpoint": "20260101-000000-12345678"}, "from_checkpoint",
         "job 20260101-000000-12345678 has no checkpoint"),
        ({"from_checkpoint": "{}", "latent_dim": 100}, "from_checkpoint",
         "its networks have another shape; set these overrides as in that job: latent_dim=64"),
        ({"from_checkpoint": "{}", "total_nimg": 4000}, "total_nimg",
         "must be more than the 4000 images that {} has seen already"),
        ({"init_discriminator_from": "{}", "d_channels": [8, 8, 8]}, "init_discriminator_from",
         "its networks have another shape; set these overrides as in that job: d_channels=(48, 96, 192)"),
        ({"init_discriminator_from": "{}", "from_checkpoint": "{}"}, "init_discriminator_from",
         "from_checkpoint already sets the discriminator; remove one of the two"),
        ({"warm_start_from": "nothing"}, "warm_start_from", "job nothing has no checkpoint"),
        ({"warm_start_from": "starter"}, "warm_start_from", "the starter model in "),
        ({"warm_start_from": "{}", "from_checkpoint": "{}"}, "warm_start_from",
         "from_checkpoint and init_discriminator_from set the same weights; remove them or this"),
        ({"from_checkpoint": "../etc"}, "from_checkpoint", "String should match pattern"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_an_impossible_warm_start_is_refused(
    client: TestClient, first: str, *, overrides: dict[str, Any], field: str, message: str, query: str
) -> None:
    overrides = {k: v.format(first) if isinstance(v, str) else v for k, v in overrides.items()}
    body = assert_problem(client.post(f"/jobs{query}", json={"preset": "tiny", "overrides": overrides}), 422)
    (problem,) = body["errors"]
    assert problem["field"] == f"overrides.{field}"
    assert problem["value"] == overrides[field]
    assert problem["message"].startswith(message.format(first))


def test_the_checkpoint_of_a_job_that_the_store_has_lost_is_accepted(client: TestClient, settings: Settings) -> None:
    ArtifactStore(settings.artifact_url).write("jobs/lost/checkpoints/0001-000000000500.ckpt", b"")
    answer = client.post("/jobs", json={"preset": "tiny", "overrides": {"from_checkpoint": "lost"}})
    assert answer.status_code == 202, answer.text
