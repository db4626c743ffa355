"""Jobs are deleted on request, or some days after their end. Models stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial

import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.jobs.retention import delete_old_jobs
from shared.errors import UnknownJob, UnknownSweep
from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus, SweepTrial
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from shared.sweeps.record import new_sweep
from shared.sweeps.store import RedisSweepStore
from shared.sweeps.transitions import cancel
from tests.api.conftest import publish
from tests.processes import wait_for
from tests.shared.examples import a_job, a_spec


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisJobStore]:
    with closing(RedisJobStore(redis_url)) as store:
        yield store


@pytest.fixture
def sweeps(redis_url: str) -> Iterator[RedisSweepStore]:
    with closing(RedisSweepStore(redis_url)) as sweeps:
        yield sweeps


@pytest.fixture
def artifacts(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.artifact_url)


def job_of(store: RedisJobStore, status: JobStatus, days: float = 0.0, sweep: str | None = None) -> Job:
    """A job that was submitted `days` ago, and ended then if it is over."""

    def make(now: datetime) -> Job:
        job = a_job(now - timedelta(days=days))
        return job.model_copy(update={"sweep": sweep and SweepTrial(id=sweep, trial=0)})

    def move(job: Job, now: datetime) -> Job:
        ended = {"finished_at": now - timedelta(days=days)} if status in ("failed", "lost", "cancelled") else {}
        return job.model_copy(update={"status": status, **ended})

    job, _ = store.create(make)
    return store.update(job.id, move, [{"nimg": 1.0}], [Event(kind="k", message="m")])


# On request


def test_a_deleted_job_is_gone_with_its_checkpoints_and_its_model_stays(
    client: TestClient, store: RedisJobStore, artifacts: ArtifactStore, registry: ModelRegistry
) -> None:
    job = job_of(store, JobStatus.CANCELLED)
    for name in ("checkpoints/0001-000000000001.ckpt", "samples/000000000001.png", "weights/000000000001.safetensors"):
        artifacts.write(f"jobs/{job.id}/{name}", b"bytes")
    publish(registry, f"tiny-{job.id}")

    deleted = client.delete(f"/jobs/{job.id}")

    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(f"/jobs/{job.id}").status_code == client.delete(f"/jobs/{job.id}").status_code == 404
    assert client.get("/jobs").json()["data"] == []
    assert artifacts.list("jobs") == []
    assert client.get(f"/models/tiny-{job.id}").status_code == 200


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED])
def test_a_running_job_is_not_deleted(client: TestClient, store: RedisJobStore, status: JobStatus) -> None:
    job = job_of(store, status)

    refused = client.delete(f"/jobs/{job.id}")

    assert refused.status_code == 409
    assert refused.json()["detail"] == f"job {job.id} is {status}; cancel it before you delete it"
    assert client.get(f"/jobs/{job.id}").status_code == 200


# After some days


def test_jobs_that_ended_long_ago_are_deleted_with_their_checkpoints(
    store: RedisJobStore, sweeps: RedisSweepStore, artifacts: ArtifactStore, registry: ModelRegistry
) -> None:
    # Given jobs of every age, and a model
    old = [job_of(store, status, days=8) for status in (JobStatus.FAILED, JobStatus.LOST, JobStatus.CANCELLED)]
    young = job_of(store, JobStatus.FAILED, days=6)
    open_jobs = [job_of(store, status, days=99) for status in (JobStatus.PAUSED, JobStatus.RUNNING, JobStatus.QUEUED)]
    for job in (*old, young):
        artifacts.write(f"jobs/{job.id}/checkpoints/0001-000000000001.ckpt", b"bytes")
    publish(registry, "a-model")

    # When jobs are kept for seven days
    delete_old_jobs(store, sweeps, artifacts, keep_days=7)

    # Then those that ended earlier are gone, and nothing else
    assert {job.id for job in store.list(limit=50).jobs} == {job.id for job in (young, *open_jobs)}
    assert artifacts.list("jobs") == [young.id]
    assert registry.get("a-model").id == "a-model"
    for job in old:
        with pytest.raises(UnknownJob):
            store.get(job.id)


def test_a_job_that_began_long_ago_and_ended_today_is_kept(
    store: RedisJobStore, sweeps: RedisSweepStore, artifacts: ArtifactStore
) -> None:
    job = job_of(store, JobStatus.PAUSED, days=30)
    store.update(job.id, partial(transitions.request_action, request="cancel"))

    delete_old_jobs(store, sweeps, artifacts, keep_days=7)

    assert store.get(job.id).status is JobStatus.CANCELLED


def test_sweeps_that_ended_long_ago_are_deleted_and_jobs_of_open_sweeps_are_kept(
    store: RedisJobStore, sweeps: RedisSweepStore, artifacts: ArtifactStore
) -> None:
    def make(now: datetime, days: float) -> object:
        return new_sweep(now - timedelta(days=days), spec=a_spec(), name=None)

    old, recent, still_open = (sweeps.create(partial(make, days=days))[0] for days in (8, 6, 99))  # type: ignore[arg-type]
    for sweep, days in ((old, 8), (recent, 6)):
        sweeps.update(sweep.id, lambda sweep, now, days=days: cancel(sweep, now - timedelta(days=days)))  # type: ignore[misc]
    job = job_of(store, JobStatus.FAILED, days=99, sweep=still_open.id)

    delete_old_jobs(store, sweeps, artifacts, keep_days=7)

    assert {sweep.id for sweep in sweeps.list().sweeps} == {recent.id, still_open.id}
    assert store.get(job.id) == job
    with pytest.raises(UnknownSweep):
        sweeps.get(old.id)


def test_the_api_deletes_old_jobs_if_the_setting_is_set(settings: Settings, store: RedisJobStore) -> None:
    old, young = job_of(store, JobStatus.FAILED, days=2), job_of(store, JobStatus.FAILED)

    with TestClient(create_app(settings)) as client:
        assert client.get(f"/jobs/{old.id}").status_code == 200  # without the setting, jobs are kept
    with TestClient(create_app(settings.model_copy(update={"keep_jobs_days": 1.0}))) as client:
        wait_for(lambda: client.get(f"/jobs/{old.id}").status_code, lambda status: status == 404)
        assert client.get(f"/jobs/{young.id}").status_code == 200
