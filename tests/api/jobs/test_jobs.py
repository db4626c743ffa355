"""Jobs over HTTP, without a worker: submitting, listing, controlling, and the reaper."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from services.api.jobs.reaper import Reaper
from services.api.state import AppState
from shared.configs.presets import PRESETS
from shared.jobs import transitions
from shared.jobs.record import Job, JobStatus, Reason, new_job
from shared.settings import Settings
from shared.storage.celery_app import TRAINING_QUEUE

TINY = {"preset": "tiny"}


@pytest.fixture
def state(client: TestClient) -> AppState:
    state: AppState = client.app.state.kiln  # type: ignore[attr-defined]
    return state


def reap(state: AppState) -> None:
    Reaper(state.store, state.broker, lease_s=state.settings.lease_s, max_attempts=3).reap()


def messages(settings: Settings) -> int:
    with redis.Redis.from_url(settings.redis_url) as client:
        return int(client.llen(TRAINING_QUEUE))


def test_a_submitted_job_is_stored_and_enqueued(client: TestClient, settings: Settings) -> None:
    answer = client.post("/jobs", json=TINY | {"overrides": {"lr": 1e-4}, "name": "slower"})

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/jobs/{job['id']}"
    assert (job["status"], job["name"], job["config"]["lr"]) == ("queued", "slower", 1e-4)
    assert client.get(answer.headers["location"]).json() == job
    assert messages(settings) == 1


def test_a_dry_run_returns_the_config_and_creates_no_job(client: TestClient, settings: Settings) -> None:
    answer = client.post("/jobs?dry_run=true", json={"preset": "wgan-gp", "overrides": {"n_critic": 1}})

    assert answer.status_code == 200
    assert (answer.json()["config"]["n_critic"], answer.json()["config"]["batch_size"]) == (1, 64)
    assert client.get("/jobs").json()["data"] == []
    assert messages(settings) == 0


def test_requests_with_one_idempotency_key_create_one_job(client: TestClient, settings: Settings) -> None:
    send = partial(client.post, "/jobs", json=TINY, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(), range(8)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/jobs").json()["data"]) == messages(settings) == 1


def test_an_idempotency_key_with_another_body_is_refused(client: TestClient) -> None:
    client.post("/jobs", json=TINY, headers={"Idempotency-Key": "k"})

    answer = client.post("/jobs", json=TINY | {"name": "other"}, headers={"Idempotency-Key": "k"})

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_pages_list_all_jobs_newest_first(client: TestClient) -> None:
    made = [client.post("/jobs", json=TINY).json()["id"] for _ in range(7)]

    seen, after = [], None
    while True:
        page = client.get("/jobs", params={"limit": 3} | ({"after": after} if after else {})).json()
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = seen[-1]

    assert seen == made[::-1]


def test_jobs_are_filtered_by_status(client: TestClient) -> None:
    queued, cancelled = (client.post("/jobs", json=TINY).json()["id"] for _ in range(2))
    client.post(f"/jobs/{cancelled}/cancel")

    assert [job["id"] for job in client.get("/jobs?status=queued").json()["data"]] == [queued]
    assert [job["id"] for job in client.get("/jobs?status=cancelled").json()["data"]] == [cancelled]


def test_a_queued_job_is_paused_resumed_and_cancelled_at_once(client: TestClient) -> None:
    job_id = client.post("/jobs", json=TINY).json()["id"]

    assert client.post(f"/jobs/{job_id}/finish").status_code == 409  # there is no model to keep yet
    assert client.post(f"/jobs/{job_id}/pause").json()["status"] == "paused"
    assert client.post(f"/jobs/{job_id}/pause").json()["status"] == "paused"
    assert client.post(f"/jobs/{job_id}/resume").json()["status"] == "queued"
    ended = client.post(f"/jobs/{job_id}/cancel").json()
    assert (ended["status"], ended["reason"]) == ("cancelled", "cancelled_by_user")
    assert client.post(f"/jobs/{job_id}/cancel").json() == ended
    assert client.post(f"/jobs/{job_id}/resume").status_code == 409


def test_metrics_are_returned_as_json_and_as_csv(client: TestClient, state: AppState) -> None:
    job_id = client.post("/jobs", json=TINY).json()["id"]
    rows = [{"nimg": 100.0, "loss_d": 2.5}, {"nimg": 200.0, "loss_d": 1.25}]
    state.store.update(job_id, lambda job, _: job, metrics=rows)

    assert client.get(f"/jobs/{job_id}/metrics").json() == {"data": rows}
    assert client.get(f"/jobs/{job_id}/metrics?after=100").json() == {"data": rows[1:]}
    csv = client.get(f"/jobs/{job_id}/metrics", headers={"accept": "text/csv"})
    assert csv.headers["content-type"].startswith("text/csv")
    assert csv.text == "nimg,loss_d\n100.0,2.5\n200.0,1.25\n"


def test_presets_list_parameter_counts_and_sources(client: TestClient) -> None:
    presets = {preset["name"]: preset for preset in client.get("/presets").json()["data"]}

    assert presets["wgan-gp"]["parameters"] == {"generator": 3_448_576, "discriminator": 2_637_312}
    assert "report 1" in presets["wgan-gp"]["sources"]["lr"]
    assert client.get("/presets/tiny").json() == presets["tiny"]


def claim(state: AppState, job_id: str) -> Job:
    return state.store.update(job_id, partial(transitions.claim, worker="w", lease_s=60))


@pytest.mark.parametrize(
    ("release", "action"),
    [
        (partial(transitions.release, status=JobStatus.PAUSED), "finish"),
        (partial(transitions.release, status=JobStatus.QUEUED), "finish"),
        (partial(transitions.release, status=JobStatus.PAUSED), "resume"),
        (partial(transitions.finish, status=JobStatus.LOST, reason=Reason.WORKER_LOST), "resume"),
    ],
)
def test_a_job_that_is_finished_or_resumed_is_sent_at_once(
    client: TestClient, state: AppState, settings: Settings, release: Callable[..., Job], action: str
) -> None:
    # Given a job that a worker has taken from the queue, trained, and given back or lost
    job_id = client.post("/jobs", json=TINY).json()["id"]
    with redis.Redis.from_url(settings.redis_url) as broker:
        broker.delete(TRAINING_QUEUE)
    state.store.update(job_id, partial(release, fence=claim(state, job_id).fence))

    # When its user finishes or resumes it
    answer = client.post(f"/jobs/{job_id}/{action}")

    # Then it is in the queue without waiting for the reaper, which would send it after a third of a lease
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert state.store.get(job_id).enqueued_at is not None
    assert messages(settings) == 1


class TestReaper:
    """The API under test runs a reaper of its own, which may take each step first."""

    def test_a_job_that_was_stored_but_never_sent_is_sent(self, state: AppState, settings: Settings) -> None:
        make = partial(new_job, preset="tiny", config=PRESETS["tiny"].config, dataset="cifar10", name=None)
        job, _ = state.store.create(make)
        reap(state)
        assert messages(settings) == 0  # the API that stored it may be about to send it

        state.store.update(job.id, lambda job, now: job.model_copy(update={"created_at": now - timedelta(hours=1)}))
        reap(state)

        assert state.store.get(job.id).enqueued_at is not None
        assert messages(settings) >= 1

    def test_a_job_whose_message_was_lost_is_sent_again(
        self, client: TestClient, state: AppState, settings: Settings
    ) -> None:
        job_id = client.post("/jobs", json=TINY).json()["id"]
        state.store.update(job_id, lambda job, now: job.model_copy(update={"enqueued_at": now - timedelta(hours=1)}))
        reap(state)
        assert messages(settings) == 1  # its message still waits in the queue

        with redis.Redis.from_url(settings.redis_url) as broker:
            broker.delete(TRAINING_QUEUE)
        reap(state)

        assert messages(settings) >= 1

    def test_a_job_whose_worker_dies_three_times_is_lost(self, state: AppState) -> None:
        make = partial(new_job, preset="tiny", config=PRESETS["tiny"].config, dataset="cifar10", name=None)
        job, _ = state.store.create(make)

        for crash in (1, 2, 3):
            # The lease has expired when it begins.
            state.store.update(job.id, partial(transitions.claim, worker="w", lease_s=-1))
            reap(state)
            after = state.store.get(job.id)
            assert after.crashes == crash
            assert after.status is (JobStatus.QUEUED if crash < 3 else JobStatus.LOST)

        assert after.reason == "worker_lost"

    def test_a_job_with_a_valid_lease_is_left_alone(self, state: AppState) -> None:
        make = partial(new_job, preset="tiny", config=PRESETS["tiny"].config, dataset="cifar10", name=None)
        job, _ = state.store.create(make)
        claimed = state.store.update(job.id, partial(transitions.claim, worker="w", lease_s=3600))

        reap(state)

        assert state.store.get(job.id) == claimed


def test_a_classifier_is_submitted_like_any_other_job(client: TestClient) -> None:
    # When a classifier is submitted
    body = {"preset": "classifier", "overrides": {"width": 16, "epochs": 6}}
    dry = client.post("/jobs", params={"dry_run": True}, json=body).json()["config"]
    job = client.post("/jobs", json=body).json()
    # Then the job has the kind and the config of a classifier; its number of images is not known yet
    assert (job["kind"], job["preset"], job["config"]) == ("classifier", "classifier", dry)
    assert (dry["width"], dry["epochs"], dry["batch_size"]) == (16, 6, 1024)
    assert (job["progress"]["images_total"], job["progress"]["fraction"]) == (0, 0.0)
    assert client.get(f"/jobs/{job['id']}").json()["config"] == dry
    # And the kind of any other job is a GAN
    assert client.post("/jobs", json={"preset": "tiny"}).json()["kind"] == "gan"


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [({"width": 4}, "overrides.width", 4), ({"g_output": "tanh"}, "overrides.g_output", "tanh")],
)
def test_an_invalid_override_of_a_classifier_is_refused_by_name(
    overrides: dict[str, Any], field: str, value: Any, client: TestClient
) -> None:
    answer = client.post("/jobs", json={"preset": "classifier", "overrides": overrides})
    (problem,) = answer.json()["errors"]
    assert (answer.status_code, problem["field"], problem["value"]) == (422, field, value)
