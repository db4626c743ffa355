"""GET /jobs/{id}/events: the list, and the stream as a browser reads it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx2
import pytest

from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from tests.processes import running_api
from tests.shared.examples import a_job


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore(settings.redis_url)
    yield store
    store.close()


@pytest.fixture
def http(settings: Settings) -> Iterator[httpx2.Client]:
    with running_api(settings) as client:
        yield client


def add_events(store: RedisJobStore, job: Job, *messages: str) -> None:
    store.update(job.id, lambda job, _: job, [], [Event(kind="note", message=message) for message in messages])


def follow(http: httpx2.Client, job: Job, **headers: str) -> Iterator[tuple[str, str, Any]]:
    """(event, id, data) until the server ends the stream."""
    with http.stream("GET", f"/jobs/{job.id}/events", headers={"accept": "text/event-stream"} | headers) as answer:
        assert answer.status_code == 200
        for event in httpx2.EventSource(answer):
            if event.data:
                yield event.event, event.id, json.loads(event.data)


def test_events_are_listed_and_paged(http: httpx2.Client, store: RedisJobStore) -> None:
    job, _ = store.create(a_job)
    add_events(store, job, "one", "two", "three")

    first = http.get(f"/jobs/{job.id}/events", params={"limit": 2}).json()
    rest = http.get(f"/jobs/{job.id}/events", params={"after": first["data"][-1]["id"]}).json()

    assert [event["message"] for event in first["data"]] == ["one", "two"]
    assert first["has_more"]
    assert [event["message"] for event in rest["data"]] == ["three"]
    assert not rest["has_more"]


@pytest.mark.parametrize("cursor", ["x", "1", "-", "1-2-3", "9" * 30 + "-0", "0-0\n", "+", "$"])
def test_an_invalid_cursor_is_refused(http: httpx2.Client, store: RedisJobStore, cursor: str) -> None:
    job, _ = store.create(a_job)

    answer = http.get(f"/jobs/{job.id}/events", params={"after": cursor})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "after"


def test_a_stream_sends_past_and_new_events_and_ends_with_the_job(http: httpx2.Client, store: RedisJobStore) -> None:
    # Given a stream of a job that has an event
    job, _ = store.create(a_job)
    add_events(store, job, "past")
    stream = follow(http, job)
    assert next(stream)[2]["message"] == "past"
    assert next(stream)[2]["status"] == "queued"

    # When the job gets another event and another status, the stream sends both
    add_events(store, job, "present")
    assert next(stream)[2]["message"] == "present"
    store.update(job.id, partial(transitions.claim, worker="w", lease_s=60))
    assert next(stream)[2]["status"] == "running"

    # When the job ends, the stream ends
    store.update(
        job.id, partial(transitions.finish, fence=1, status=JobStatus.SUCCEEDED), [], [Event(kind="x", message="m")]
    )
    assert [kind for kind, _, _ in stream] == ["x", "job", "end"]


def test_a_client_that_reconnects_gets_each_event_once(http: httpx2.Client, store: RedisJobStore) -> None:
    job, _ = store.create(a_job)
    add_events(store, job, "one", "two")
    stream = follow(http, job)
    last_id = next(stream)[1]

    add_events(store, job, "three")
    store.update(job.id, partial(transitions.request_action, request="cancel"))

    notes = [data["message"] for kind, _, data in follow(http, job, **{"last-event-id": last_id}) if kind == "note"]
    assert notes == ["two", "three"]


def test_several_clients_stream_one_job(http: httpx2.Client, store: RedisJobStore) -> None:
    job, _ = store.create(a_job)
    received: list[list[str]] = []
    listening = threading.Barrier(9)

    def listen() -> None:
        stream = follow(http, job)
        next(stream)
        listening.wait()
        received.append([kind for kind, _, _ in stream])

    threads = [threading.Thread(target=listen) for _ in range(8)]
    for thread in threads:
        thread.start()
    listening.wait()
    add_events(store, job, "news")
    store.update(job.id, partial(transitions.request_action, request="cancel"))
    for thread in threads:
        thread.join()

    assert [kinds[0] for kinds in received] == ["note"] * 8
    assert [kinds[-2:] for kinds in received] == [["job", "end"]] * 8


def test_the_stream_of_an_unknown_job_is_a_404(http: httpx2.Client) -> None:
    assert http.get("/jobs/nothing/events", headers={"accept": "text/event-stream"}).status_code == 404
