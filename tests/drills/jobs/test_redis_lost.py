"""Redis is restarted, killed, emptied, suspended or down: while Kiln is idle, in a job, and during a request."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import httpx2
import pytest

from tests.drills.harness import ENDLESS, LEASE_S, RUN, Kiln, RedisServer, stopped
from tests.drills.report import Drill
from tests.drills.wire import Fate, wire_to
from tests.processes import wait_for

pytestmark = pytest.mark.timeout(900)

BODY = {"preset": "tiny", "dataset": "colors", "overrides": ENDLESS}


def assert_refused_in_time(answer: httpx2.Response) -> None:
    """503 within two seconds, with Retry-After."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.elapsed.total_seconds() < 2


def test_redis_restarts_while_nothing_happens(kiln: Kiln, drill: Drill) -> None:
    """Invariant: API and worker reconnect to the new Redis; the next jobs run at once.

    Faults injected: three restarts of redis-server (SIGTERM, kill -9, SIGTERM), with API and worker idle.
    Broken by hand: shared/storage/celery_app.py: `broker_connection_retry=False` -> times out waiting for the job to
    run
    """
    for end in (kiln.redis.shut_down, kiln.redis.kill, kiln.redis.shut_down):
        wait_for(kiln.worker.log, lambda text: "ready." in text)
        end()
        kiln.redis.start()
        job_id = kiln.submit(ENDLESS)
        assert kiln.wait_for_status(job_id, "running").attempt == 1
        kiln.reset()
    drill.record("redis restart, idle", 3)


@pytest.mark.slow_drill
@pytest.mark.parametrize(("name", "end"), [("redis restart in a job", RedisServer.shut_down),
                                           ("redis kill -9 with AOF, in a job", RedisServer.kill)])  # fmt: skip
def test_redis_returns_in_a_job(kiln: Kiln, drill: Drill, name: str, end: Callable[[RedisServer], None]) -> None:
    """About 30 s each.

    Invariant: training continues, the worker keeps its job, record, events and series are complete, and the next job
    in the queue runs.
    Faults injected: redis-server ends (SIGTERM, kill -9) while a job trains, twice, and starts again after the
    worker has noticed.
    Broken by hand: services/trainer/worker/supervisor.py: StoreUnavailable raised from `_try_to_flush` -> the worker
    drops its job, times out waiting for its end; services/dev.py: `--appendonly no` -> the waiting job is unknown
    """
    job_id, waiting = kiln.submit(RUN), kiln.submit(ENDLESS)
    for share in (0.1, 0.5):
        kiln.wait_until_training(job_id, share)
        before = misses(kiln, job_id)
        end(kiln.redis)
        wait_for(partial(misses, kiln, job_id), before.__lt__)
        kiln.redis.start()

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.fence, job.crashes) == (1, 1, 0)
    assert "rebuilt" not in kiln.events(job_id)
    assert kiln.wait_for_status(waiting, "running").attempt == 1
    kiln.end_all_jobs()
    kiln.assert_same_outcome(job_id, RUN)
    drill.record(name, 2)


def test_redis_ends_during_a_post(kiln: Kiln, drill: Drill) -> None:
    """Invariant: 503 with Retry-After within 2 s; a client that repeats the request with its key gets one job and one
    run.

    Faults injected: kill -9 of redis-server when the record of a new job arrives: once before it is written, and once
    after, with the reply lost.
    Broken by hand: shared/jobs/store.py: the known key ignored in `create` -> two jobs
    """
    with wire_to(kiln.redis.port) as wire:
        api = kiln.replace_api(KILN_REDIS_URL=wire.url)
        for number, fate in enumerate((Fate.DROPPED, Fate.UNANSWERED)):
            before = {job.id for job in kiln.store.list(limit=100).jobs}
            key = {"Idempotency-Key": f"redis-ends-during-a-post-{number}"}
            wire.trap('"status":"queued"', "EXEC", act=kiln.redis.kill, fate=fate)

            assert_refused_in_time(api.http.post("/jobs", json=BODY, headers=key))
            assert wire.sprung.is_set()
            kiln.redis.start()
            # The API reconnects; a repeated request gets the response of the first.
            again = partial(api.http.post, "/jobs", json=BODY, headers=key)
            answer = wait_for(again, lambda seen: seen.status_code != 503)

            assert answer.status_code == 202, answer.text
            (job_id,) = {job.id for job in kiln.store.list(limit=100).jobs} - before
            assert answer.json()["id"] == job_id
            assert kiln.wait_for_status(job_id, "running").attempt == 1
            kiln.end_all_jobs()
        kiln.reset()
    drill.record("redis restart during POST", 2)


def test_redis_hangs_during_a_post(kiln: Kiln, drill: Drill) -> None:
    """Invariant: 503 with Retry-After within 2 s, also from a Redis that accepts connections and never replies.

    Faults injected: SIGSTOP to redis-server, then three requests.
    Broken by hand: shared/jobs/store.py: `socket_timeout=10` -> 503 after 10 s
    """
    with stopped(kiln.redis.pid):
        for _ in range(3):
            assert_refused_in_time(kiln.api.http.post("/jobs", json=BODY))

    assert kiln.wait_for_status(kiln.submit(ENDLESS), "running").attempt == 1
    drill.record("redis hangs during POST", 1)


@pytest.mark.slow_drill
def test_flushall_in_a_job(kiln: Kiln, drill: Drill) -> None:
    """About 30 s.

    Invariant: training continues and its model is not lost; record, series and indexes are rebuilt; the queue works.
    Faults injected: FLUSHALL while a job trains.
    Broken by hand: services/trainer/worker/supervisor.py: UnknownJob raised from `_update` -> never rebuilt
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.3)

    kiln.redis.execute("FLUSHALL")

    wait_for(lambda: kiln.events(job_id), lambda kinds: "rebuilt" in kinds)
    listed = kiln.api.http.get("/jobs", params={"status": "running"}).json()["data"]
    assert [job["id"] for job in listed] == [job_id]
    job = kiln.wait_until_over(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)
    kiln.assert_same_outcome(job_id, RUN)
    assert kiln.wait_for_status(kiln.submit(ENDLESS), "running").attempt == 1
    drill.record("FLUSHALL in a job", 1)


@pytest.mark.slow_drill
@pytest.mark.parametrize("outage_s", [2 * LEASE_S, 60.0])
def test_redis_is_down_for_a_while(kiln: Kiln, drill: Drill, outage_s: float) -> None:
    """About 45 s and 80 s.

    Invariant: training continues, images are served, and POST /jobs is refused at once. When Redis is back, everything
    recovers by itself, the job keeps its worker, and the outcome is the same.
    Faults injected: kill -9 of redis-server in a job; it restarts after two leases, and after 60 s.
    Broken by hand: services/trainer/worker/supervisor.py: `retry_while_unavailable` gives up at once ->
    claimed again, two attempts
    """
    kiln.undisturbed(RUN)  # so that there is a model
    wait_for(lambda: kiln.api.http.get("/readyz").status_code, lambda code: code == 200)
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.1)
    newest = kiln.checkpoints(job_id)[-1:]

    kiln.redis.kill()
    killed_at_s = time.monotonic()
    assert_refused_in_time(kiln.api.http.post("/jobs", json=BODY))
    wait_for(lambda: kiln.checkpoints(job_id)[-1:], lambda seen: seen != newest)
    wait_for(lambda: generate_without_redis(kiln, killed_at_s), lambda down_for_s: down_for_s > outage_s)
    assert_refused_in_time(kiln.api.http.post("/jobs", json=BODY))
    kiln.redis.start()

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.fence, job.crashes) == (1, 1, 0)
    kiln.assert_same_outcome(job_id, RUN)
    assert kiln.wait_for_status(kiln.submit(ENDLESS), "running").attempt == 1
    drill.record(f"redis gone for {outage_s:g} s", 1)


def generate_without_redis(kiln: Kiln, killed_at_s: float) -> float:
    """Requests images while Redis is down. -> seconds since it was killed"""
    assert kiln.api.http.get("/generate", params={"n": 4, "class": "red"}).status_code == 200
    return time.monotonic() - killed_at_s


def misses(kiln: Kiln, job_id: str) -> int:
    """How often the worker has logged that Redis does not respond."""
    return kiln.worker.log().count(f"job {job_id}: the job store does not answer")
