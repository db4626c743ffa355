"""Drills: Redis is down or hangs. Job requests fail at once, images are still served, and the API recovers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.api.conftest import publish
from tests.drills.clients import Crowd
from tests.drills.report import Drill
from tests.drills.servers import Server, running
from tests.processes import wait_for

WITHIN_S = 2.0  # promised for the response to POST /jobs


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as server:
        publish(server.registry, "first")
        server.wait_until_ready()
        yield server


def post(server: Server, key: str) -> tuple[httpx2.Response, float]:
    """-> the response, and the seconds until it arrived"""
    began_s = time.monotonic()
    answer = server.http.post("/jobs", json={"preset": "tiny"}, headers={"Idempotency-Key": key})
    return answer, time.monotonic() - began_s


def seconds_of_a_list(server: Server, _: int) -> float:
    began_s = time.monotonic()
    assert server.http.get("/jobs").status_code == 200
    return time.monotonic() - began_s


def send(client: httpx2.Client, number: int) -> httpx2.Response:
    return client.get(("/generate?class=cat&n=1&seed=1", "/healthz")[number % 2])


def assert_recovered(server: Server, key: str) -> None:
    """The API creates one job per key, lists it, and serves images."""
    server.wait_until_ready()
    jobs = {wait_for(lambda: post(server, key)[0], lambda answer: answer.status_code == 202).json()["id"] for _ in "ab"}
    assert [job["id"] for job in server.http.get("/jobs").json()["data"] if job["id"] in jobs] == list(jobs)


def test_redis_down_during_post(server: Server, drill: Drill) -> None:
    """Invariant: while Redis is down, POST /jobs returns 503 with Retry-After within 2 s, /readyz returns 503, and
    /generate works. After Redis has restarted, the API recovers by itself, and one Idempotency-Key creates one job.

    Faults injected: 2 (kill -9 of Redis, twice).
    Broken by hand: `services/api/app.py`: `_watch_models` without `except StoreUnavailable` -> new models were no
    longer found.
    """
    for turn in range(2):
        with Crowd(server.url, send, 4) as crowd:
            server.redis.kill()
            server.redis.wait()
            answer, took_s = post(server, f"key-{turn}")
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert int(answer.headers["retry-after"]) >= 1
            assert took_s < WITHIN_S
            assert server.http.get("/readyz").status_code == 503
            count = len(crowd.answers)
            wait_for(lambda: len(crowd.answers) - count, lambda more: more > 20)  # noqa: B023
        assert (crowd.errors, {status for status, _ in crowd.answers}) == ([], {200})
        # Models are files: a new one is found without Redis
        publish(server.registry, f"next-{turn}")
        server.registry.set_alias("default", f"next-{turn}")
        wait_for(
            lambda: server.http.get("/generate?class=cat&n=1").headers["x-kiln-model"],
            lambda model: model == f"next-{turn}",  # noqa: B023 - called at once
        )
        server.restart_redis()
        assert_recovered(server, f"key-{turn}")
    drill.record("redis down during POST", 2)


def test_redis_hangs_during_post(server: Server, drill: Drill) -> None:
    """Invariant: while Redis accepts connections but does not respond, POST /jobs gets 503 with Retry-After within 2 s;
    during 64 such requests /readyz returns 503, and /healthz and /generate work. Afterwards the API recovers, and each
    Idempotency-Key creates one job.

    Faults injected: 1 (SIGSTOP of Redis under 64 posts and 4 other clients).
    Broken by hand: `services/api/app.py`: `JOB_THREADS = 8` -> the last post took 8.3 s.
    `services/api/routes/generate.py`: `await state.store_health.check()` first -> the others got 503.
    """
    with Crowd(server.url, send, 4) as crowd, ThreadPoolExecutor(64) as pool:
        # The time that 64 threads of this process need without a fault, on a machine that may be busy
        usual_s = max(pool.map(partial(seconds_of_a_list, server), range(64)))
        with server.frozen_redis():
            assert [post(server, "key-0")[1] < WITHIN_S for _ in range(3)] == [True] * 3
            posts = [pool.submit(post, server, f"key-{number}") for number in range(64)]
            count = len(crowd.answers)
            wait_for(lambda: len(crowd.answers), lambda now: now > count + 20)
            assert server.http.get("/readyz").status_code == 503
            responses = [future.result() for future in posts]
    assert (crowd.errors, {status for status, _ in crowd.answers}) == ([], {200})
    assert {answer.status_code for answer, _ in responses} == {503}
    assert min(int(answer.headers["retry-after"]) for answer, _ in responses) >= 1
    slowest_s = max(took_s for _, took_s in responses)
    assert slowest_s < 2 * WITHIN_S + 2 * usual_s
    assert_recovered(server, "key-0")
    ids = {post(server, f"key-{number}")[0].json()["id"] for number in range(64)}
    assert len(ids) == 64
    listed = [job["id"] for job in server.http.get("/jobs?limit=100").json()["data"]]
    assert sorted(listed) == sorted(ids)  # no job twice, and no job without a response
    drill.record("redis hangs during POST", 1, detail=f"slowest answer {slowest_s:.2f} s, usually {usual_s:.2f} s")
