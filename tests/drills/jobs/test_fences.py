"""Crashes and duplicates between two steps: record and message, lease and claim, publish and finish."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import suppress
from functools import partial

import httpx2
import pytest
import redis

from shared.configs.presets import resolve
from shared.errors import IllegalTransition
from shared.jobs import transitions
from shared.jobs.record import Job, JobStatus, new_job
from shared.jobs.store import RedisJobStore
from shared.storage.celery_app import TRAINING_QUEUE, Broker
from tests.drills.harness import ENDLESS, RUN, Kiln, is_gone
from tests.drills.report import Drill
from tests.drills.wire import Fate, wire_to
from tests.processes import small_overrides, wait_for

pytestmark = pytest.mark.timeout(900)


def test_kill_9_the_api_between_record_and_message(kiln: Kiln, drill: Drill) -> None:
    """Invariant: a recorded job runs once although its message was never sent, and its Idempotency-Key stays valid.

    Faults injected: SIGKILL to the API as it sends its message to Redis, which never receives it.
    Broken by hand: services/api/jobs/reaper.py: no round over `unsent()` -> times out waiting for the job to run
    """
    with wire_to(kiln.redis.port) as wire:
        api = kiln.replace_api(KILN_REDIS_URL=wire.url)
        wire.trap("LPUSH", TRAINING_QUEUE, act=lambda: api.signal(signal.SIGKILL))
        body = {"preset": "tiny", "dataset": "colors", "overrides": ENDLESS}
        key = {"Idempotency-Key": "between-record-and-message"}
        with pytest.raises(httpx2.TransportError):
            api.http.post("/jobs", json=body, headers=key)
        assert wire.sprung.is_set()
        api.kill()
    (recorded,) = kiln.store.list(JobStatus.QUEUED).jobs
    assert (recorded.attempt, recorded.enqueued_at) == (0, None)

    kiln.replace_api()

    assert kiln.wait_for_status(recorded.id, "running").attempt == 1
    assert kiln.api.http.post("/jobs", json=body, headers=key).json()["id"] == recorded.id
    assert kiln.redis.execute("LLEN", TRAINING_QUEUE) == 0
    drill.record("kill -9 the API between record and message", 1)


def test_one_message_delivered_five_times(kiln: Kiln, drill: Drill) -> None:
    """Invariant: a job runs once, however often its message arrives, whether it is queued, running or over.

    Faults injected: four copies of the message to two workers, and one more each while it runs and after its end.
    Broken by hand: shared/jobs/transitions.py: `lease_is_live` ignored in `claim` -> copies are not refused
    """
    other = kiln.start_worker()
    with_copies = Broker(kiln.settings())
    job_id = kiln.submit(small_overrides())
    for _ in range(4):
        with_copies.enqueue_training(job_id)
    kiln.wait_for_status(job_id, "running")
    with_copies.enqueue_training(job_id)
    done = kiln.wait_until_over(job_id)
    with_copies.enqueue_training(job_id)
    with_copies.close()

    logs = lambda: kiln.worker.log() + other.log()  # noqa: E731
    wait_for(logs, lambda text: text.count(f"not claimed: job {job_id}") == 6)
    assert (done.status, done.attempt, done.fence) == ("succeeded", 1, 1)
    assert kiln.events(job_id).count("started") == 1
    assert kiln.job(job_id) == done
    drill.record("deliver one message five times", 6)


@pytest.mark.slow_drill
@pytest.mark.parametrize("processes", ["worker", "worker and trainer"])
def test_a_worker_that_sleeps_past_its_lease_loses_its_job(kiln: Kiln, drill: Drill, processes: str) -> None:
    """About 40 s each.

    Invariant: another worker resumes the job; the sleeper's writes are refused, it stops its trainer and gives up;
    the published model is that of an undisturbed run.
    Faults injected: SIGSTOP to the worker (and its trainer) until another worker trains the job, then SIGCONT.
    Broken by hand: shared/jobs/transitions.py: `_check_fence` accepts every fence -> the sleeper never gives up
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.1)
    sleeper, sleepers_trainer = kiln.worker, kiln.worker.trainer()
    other = kiln.start_worker()
    sleeping = [sleeper.pid] + [sleepers_trainer] * (processes == "worker and trainer")

    for pid in sleeping:
        os.kill(pid, signal.SIGSTOP)
    job = kiln.wait(job_id, lambda job: job.attempt == 2)
    assert (job.fence, (job.worker or "").endswith(f"-{other.pid}")) == (2, True)
    wait_for(other.trainers, bool)
    for pid in sleeping:
        os.kill(pid, signal.SIGCONT)

    wait_for(lambda: is_gone(sleepers_trainer), bool)
    wait_for(sleeper.log, lambda text: "another worker owns the job" in text)
    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.fence, job.crashes) == (2, 2, 1)
    assert kiln.events(job_id).count("succeeded") == 1
    kiln.assert_same_outcome(job_id, RUN)
    drill.record(f"SIGSTOP a {processes} past its lease", len(sleeping))


@pytest.mark.slow_drill
def test_a_worker_that_dies_between_publishing_and_finishing(kiln: Kiln, drill: Drill) -> None:
    """About 20 s.

    Invariant: a published model is not trained again: the next claim finds it and finishes the job.

    Faults injected: SIGKILL to the worker as it sends its last write to Redis, which never receives it.
    Broken by hand: services/trainer/worker/supervisor.py: `_is_published` ignored -> trained a second time
    """
    with wire_to(kiln.redis.port) as wire:
        worker = kiln.replace_worker(KILN_REDIS_URL=wire.url)
        wire.trap('"status":"succeeded"', "EXEC", act=worker.kill_tree)
        job_id = kiln.submit(small_overrides())
        wait_for(wire.sprung.is_set, bool)
    before = kiln.job(job_id)
    assert (before.status, before.model_id) == ("running", None)
    published = kiln.api.http.get(f"/models/tiny-{job_id}").json()["manifest"]

    kiln.replace_worker()

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.model_id, job.attempt) == ("succeeded", published["id"], 2)
    assert kiln.events(job_id).count("started") == 1
    assert kiln.api.http.get(f"/models/{job.model_id}").json()["manifest"] == published
    drill.record("die between publishing and finishing", 1)


def test_a_connection_that_drops_before_the_answer(kiln: Kiln, drill: Drill) -> None:
    """Invariant: a write whose reply was lost is not repeated: one job, one attempt.

    Faults injected: the connection cut between EXEC and its reply, once when the API records the job and once when
    the worker claims it.
    Broken by hand: shared/jobs/store.py: `last == token` ignored -> the worker is refused its own claim; two attempts
    """
    with wire_to(kiln.redis.port) as wire:
        api = kiln.replace_api(KILN_REDIS_URL=wire.url)
        worker = kiln.replace_worker(KILN_REDIS_URL=wire.url)
        known = {job.id for job in kiln.store.list(limit=100).jobs}

        wire.trap('"status":"queued"', "EXEC", fate=Fate.UNANSWERED)
        answer = api.http.post("/jobs", json={"preset": "tiny", "dataset": "colors", "overrides": ENDLESS})
        wait_for(wire.sprung.is_set, bool)
        assert answer.status_code == 202, answer.text
        (job_id,) = {job.id for job in kiln.store.list(limit=100).jobs} - known

        wire.trap('"status":"running"', "EXEC", fate=Fate.UNANSWERED)
        second = kiln.submit(ENDLESS)
        kiln.request(job_id, "cancel")
        wait_for(wire.sprung.is_set, bool)
        job = kiln.wait_for_status(second, "running")
        wait_for(worker.trainers, bool)

        assert answer.json()["id"] == job_id
        assert kiln.job(second).attempt == job.attempt == 1
        kiln.reset()
    drill.record("connection drops between a write and its answer", 2)


GHOSTS, CLAIMERS, REPLICAS = 60, 4, 3


def test_reapers_of_several_replicas_at_once(kiln: Kiln, drill: Drill) -> None:
    """Invariant: each job whose worker died counts one crash and is claimed exactly once more; a job that was
    never sent is claimed exactly once.

    Faults injected: 60 jobs whose worker has died and 60 that were never sent, for three replicas that start together;
    the claims are made by four claimers at once, each of which takes messages as a worker does.
    Broken by hand: shared/jobs/store.py: `watch` on another key in `update` -> 11 jobs were claimed twice
    """
    kiln.worker.kill_tree()
    for api in kiln.apis:
        api.kill()
    make = partial(new_job, preset="tiny", config=resolve("tiny", small_overrides()), dataset="colors", name=None)
    unsent = [kiln.store.create(make)[0].id for _ in range(GHOSTS)]
    ghosts = [kiln.store.create(make)[0].id for _ in range(GHOSTS)]
    for job_id in ghosts:
        kiln.store.update(job_id, partial(transitions.claim, worker="ghost", lease_s=0))

    claimed: list[Job] = []
    with claiming(kiln, claimed):
        for _ in range(REPLICAS):
            kiln.start_api()
        wait_for(lambda: len(claimed), lambda n: n >= 2 * GHOSTS)
        # Each replica runs another round, which must not touch claimed jobs.
        for api in kiln.apis[-REPLICAS:]:
            api.wait()
        wait_for(lambda: kiln.redis.execute("LLEN", TRAINING_QUEUE), lambda n: n == 0)

    assert sorted(job.id for job in claimed) == sorted(unsent + ghosts)
    for job in claimed:
        assert kiln.job(job.id) == job
        assert (job.attempt, job.fence, job.crashes) == ((2, 2, 1) if job.id in ghosts else (1, 1, 0))
    for job in claimed:
        kiln.store.update(job.id, partial(transitions.finish, fence=job.fence, status=JobStatus.FAILED))
    drill.record("two API replicas' reapers at once", 2 * GHOSTS, detail=f"{REPLICAS} replicas")


class claiming:  # noqa: N801
    """Four claimers take messages and claim jobs as a worker does, with a lease of an hour, until the block ends."""

    def __init__(self, kiln: Kiln, claimed: list[Job]) -> None:
        self._kiln, self._claimed, self._over = kiln, claimed, threading.Event()
        self._threads = [threading.Thread(target=self._claim, args=(f"claimer-{n}",)) for n in range(CLAIMERS)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _claim(self, name: str) -> None:
        store = RedisJobStore(self._kiln.redis.url)
        with redis.Redis.from_url(self._kiln.redis.url) as client:
            while not self._over.is_set():
                if message := client.brpop([TRAINING_QUEUE], timeout=0.2):
                    job_id = json.loads(message[1])["headers"]["argsrepr"].strip("['] ")
                    with suppress(IllegalTransition):  # another claimer has it
                        self._claimed.append(
                            store.update(job_id, partial(transitions.claim, worker=name, lease_s=3600))
                        )
        store.close()
