"""The Python client: against a real API process, and its retries against a server that fails by script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis

from kiln import (
    ApiError,
    AsyncKiln,
    Conflict,
    InvalidInput,
    InvalidSetting,
    JobData,
    JobStatus,
    Kiln,
    NotFound,
    Unavailable,
)
from shared.jobs import record, transitions
from shared.jobs.store import RedisJobStore
from shared.settings import Settings


@pytest.fixture
def kiln(url: str) -> Iterator[Kiln]:
    with Kiln(url) as kiln:
        yield kiln


def train_by_hand(store: RedisJobStore, job_id: str) -> None:
    """Writes what a worker would write, from the claim to the end."""
    store.update(job_id, partial(transitions.claim, worker="w", lease_s=60))
    store.update(
        job_id, partial(transitions.renew, fence=1, lease_s=60, progress=record.Progress.at(500, 1000, 10.0)),
        [{"nimg": 500.0, "loss_d": 0.5}], [record.Event(kind="sample", message="a grid")],
    )  # fmt: skip
    store.update(
        job_id, partial(transitions.finish, fence=1, status=record.JobStatus.SUCCEEDED, model_id="first"), [],
        [record.Event(kind="succeeded", message="done")],
    )  # fmt: skip


def test_wait_reports_every_change_until_the_job_is_over(kiln: Kiln, store: RedisJobStore) -> None:
    # Given a job
    job = kiln.jobs.create("tiny", {"lr": 1e-4, "total_nimg": 1000}, name="mine")
    assert (job.status, job.name, job.config["lr"]) == ("queued", "mine", 1e-4)

    # When the client waits for it while a worker trains it
    seen: list[tuple[str, float]] = []

    def on_progress(job: JobData) -> None:
        seen.append((job.status, job.progress.fraction))
        if job.status == JobStatus.QUEUED:
            train_by_hand(store, job.id)

    done = job.wait(on_progress)

    # Then the callback saw every status in order, and the series and events are complete
    assert done.status == JobStatus.SUCCEEDED
    assert seen[0] == ("queued", 0.0)
    assert seen[-1] == ("succeeded", 0.5)
    assert done.series() == [{"nimg": 500.0, "loss_d": 0.5}]
    assert [event.message for event in done.events()] == ["a grid", "done"]
    assert kiln.models.get("first").aliases == ["default"]


def test_a_broken_event_stream_resumes_without_losing_or_repeating_events(
    kiln: Kiln, store: RedisJobStore, settings: Settings
) -> None:
    # Given a client that follows a job
    job = kiln.jobs.create("tiny")
    store.update(job.id, lambda job, _: job, [], [record.Event(kind="note", message="one")])
    events = job.events()
    assert next(events).message == "one"

    # When the API loses its connection to Redis, which ends the stream, and two more events happen
    with redis.Redis.from_url(settings.redis_url) as client:
        assert client.client_kill_filter(_type="pubsub") >= 1
    store.update(job.id, lambda job, _: job, [], [record.Event(kind="note", message="two")])
    store.update(
        job.id, partial(transitions.request_action, request="cancel"), [], [record.Event(kind="note", message="three")]
    )

    # Then both arrive, once each
    assert [event.message for event in events] == ["two", "three"]


def test_jobs_are_listed_paused_resumed_and_cancelled(kiln: Kiln) -> None:
    made = [kiln.jobs.create("tiny") for _ in range(3)]

    assert [job.id for job in kiln.jobs.list()] == [job.id for job in reversed(made)]
    assert [job.id for job in kiln.jobs.list(limit=2)] == [made[2].id, made[1].id]
    assert made[0].pause().status == JobStatus.PAUSED
    assert made[0].resume().status == JobStatus.QUEUED
    assert made[0].cancel().status == JobStatus.CANCELLED
    assert [job.id for job in kiln.jobs.list(status="cancelled")] == [made[0].id]
    with pytest.raises(Conflict, match="never trained"):
        made[1].finish()


def test_a_job_that_is_over_is_deleted_and_any_other_is_not(kiln: Kiln) -> None:
    over, queued = kiln.jobs.create("tiny").cancel(), kiln.jobs.create("tiny")

    over.delete()

    with pytest.raises(NotFound):
        kiln.jobs.get(over.id)
    with pytest.raises(Conflict, match=f"job {queued.id} is queued; cancel it before you delete it"):
        kiln.jobs.delete(queued.id)
    assert [job.id for job in kiln.jobs.list()] == [queued.id]


def test_generate_returns_pil_images_that_depend_on_the_seed_alone(kiln: Kiln) -> None:
    images = kiln.generate("cat", n=5, seed=3)
    four = kiln.generate("cat", n=4, seed=3)

    assert [(image.size, image.mode) for image in images] == [((32, 32), "RGB")] * 5
    assert [image.tobytes() for image in images[:4]] == [image.tobytes() for image in four]
    assert len({image.tobytes() for image in images}) == 5
    assert kiln.generate_png("cat", n=1).startswith(b"\x89PNG")


def test_several_classes_interpolations_and_verification(kiln: Kiln) -> None:
    many = kiln.generate_many(["cat", "dog"], n=2, seed=3)
    path = kiln.interpolate("cat", "dog", steps=3, seed=3)
    png = kiln.generate_png("cat", n=2, seed=3)

    assert {name: [image.size for image in images] for name, images in many.items()} == {
        "cat": [(32, 32)] * 2, "dog": [(32, 32)] * 2,
    }  # fmt: skip
    assert [image.size for image in path] == [(32, 32)] * 3
    assert path[0].tobytes() == many["cat"][0].tobytes() == kiln.generate("cat", n=1, seed=3)[0].tobytes()
    assert kiln.interpolate_png("cat", "dog", steps=3, seed=3, format="apng").startswith(b"\x89PNG")
    assert kiln.verify(png).reproduced
    rewritten = kiln.verify(png + b"x")
    assert (rewritten.reproduced, rewritten.same_pixels) == (False, True)
    assert "another program" in str(rewritten.reason)


def test_a_refused_request_raises_an_error_with_the_field_and_the_reason(kiln: Kiln) -> None:
    with pytest.raises(InvalidInput, match=r"overrides\.lr") as invalid:
        kiln.jobs.create("tiny", {"lr": -1.0})
    assert invalid.value.problems[0]["field"] == "overrides.lr"
    assert invalid.value.problems[0]["value"] == -1.0
    with pytest.raises(NotFound, match="nothing"):
        kiln.jobs.get("nothing")
    with pytest.raises(NotFound):
        kiln.models.promote("a/b?c")
    assert kiln.jobs.dry_run("tiny", {"lr": 1e-4})["config"]["lr"] == 1e-4
    assert "wgan-gp" in [preset["name"] for preset in kiln.presets.list()]


def test_the_asyncio_client_trains_lists_and_generates(url: str, store: RedisJobStore) -> None:
    async def scenario() -> None:
        async with AsyncKiln(url) as kiln:
            job = await kiln.jobs.create("tiny", {"total_nimg": 1000})
            images = await asyncio.gather(*(kiln.generate("dog", n=2, seed=seed) for seed in range(4)))
            assert [len(each) for each in images] == [2] * 4
            assert (await (await job.pause()).resume()).status == JobStatus.QUEUED
            await asyncio.to_thread(train_by_hand, store, job.id)
            statuses: list[str] = []
            done = await job.wait(lambda job: statuses.append(job.status))
            assert (done.status, statuses[-1]) == (JobStatus.SUCCEEDED, "succeeded")
            assert [event.message async for event in done.events()] == ["a grid", "done"]
            assert await done.series() == [{"nimg": 500.0, "loss_d": 0.5}]
            assert [listed.id async for listed in kiln.jobs.list(limit=1)] == [job.id]
            assert [model.id for model in await kiln.models.list()] == ["first"]
            assert "tiny" in [preset["name"] for preset in await kiln.presets.list()]
            sweep = await kiln.sweeps.create(
                "tiny", {"lr": {"type": "float", "low": 0.1, "high": 0.2}}, "loss_g", n_trials=1
            )
            assert [listed.id for listed in await kiln.sweeps.list()] == [sweep.id]
            await kiln.sweeps.cancel(sweep.id)
            assert (await kiln.sweeps.wait(sweep.id)).status == "cancelled"
            assert await kiln.is_ready()

    asyncio.run(scenario())


class Flaky(BaseHTTPRequestHandler):
    """Answers by a script: a status for each request; 0 closes the connection."""

    script: list[int]
    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Idempotency-Key"])
        status = self.script.pop(0)
        if status == 0:
            self.close_connection = True
            return
        body = b'{"data": []}' if status == 200 else b'{"title": "t", "detail": "d"}'
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[type[Flaky]]:
    Flaky.script, Flaky.seen = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Flaky.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
        yield Flaky
        server.shutdown()
        thread.join()


def test_503_429_and_a_closed_connection_are_retried(flaky: Any) -> None:
    flaky.script[:] = [503, 429, 0, 200]

    with Kiln(flaky.url) as kiln:
        assert kiln.models.list() == []

    assert flaky.script == []


def test_a_retried_post_keeps_its_idempotency_key(flaky: Any) -> None:
    flaky.script[:] = [0, 503, 422]

    with Kiln(flaky.url) as kiln, pytest.raises(InvalidInput):
        kiln.jobs.create("tiny")

    assert len(flaky.seen) == 3
    assert len(set(flaky.seen)) == 1
    assert flaky.seen[0]


def test_without_waiting_time_the_first_503_is_raised(flaky: Any) -> None:
    flaky.script[:] = [503]

    with Kiln(flaky.url, max_wait_s=0) as kiln, pytest.raises(Unavailable) as error:
        kiln.models.list()

    assert (error.value.status, error.value.detail) == (503, "d")


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_an_error_that_a_retry_cannot_cure_is_raised_at_once(flaky: Any, status: int) -> None:
    flaky.script[:] = [status]

    with Kiln(flaky.url) as kiln, pytest.raises(ApiError) as error:
        kiln.models.list()

    assert error.value.status == status


def test_the_address_is_checked_and_the_key_is_in_no_repr() -> None:
    with pytest.raises(InvalidSetting, match="KILN_URL"):
        Kiln("localhost:8000")
    with Kiln("http://localhost:8000", "secret-key") as kiln:
        assert "secret-key" not in repr(kiln) + repr(vars(kiln))
