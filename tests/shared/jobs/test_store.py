"""The contract of job stores, tested on Redis and on the test double in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from services.dev import free_port
from shared.errors import IdempotencyMismatch, IllegalTransition, StaleFence, StoreUnavailable, UnknownJob
from shared.jobs.record import Event, Job, JobStatus
from shared.jobs.store import JobStore, RedisJobStore
from shared.jobs.transitions import enqueued
from shared.storage.redis import Idempotency
from tests.shared.examples import a_job
from tests.shared.jobs.memory_job_store import MemoryJobStore
from tests.shared.servers import BreakableConnection, breakable, redis_on


@pytest.fixture(params=["redis", "memory"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
    else:
        redis_store = RedisJobStore(request.getfixturevalue("redis_url"))
        yield redis_store
        redis_store.close()


def submit(store: JobStore, job_id: str | None = None) -> Job:
    def make(now: datetime) -> Job:
        job = a_job(now)
        return job if job_id is None else job.model_copy(update={"id": job_id})

    return store.create(make)[0]


def unchanged(job: Job, now: datetime) -> Job:
    return job


def moved_to(status: JobStatus) -> Callable[[Job, datetime], Job]:
    def move(job: Job, now: datetime) -> Job:
        return job.model_copy(update={"status": status})

    return move


def one_crash_more(job: Job, now: datetime) -> Job:
    return job.model_copy(update={"crashes": job.crashes + 1})


def refused(job: Job, now: datetime) -> Job:
    raise IllegalTransition("not now")


# Repetitions


def test_a_change_that_is_repeated_with_its_token_is_applied_once(store: JobStore) -> None:
    job = submit(store)
    for _ in range(2):
        after = store.update(job.id, one_crash_more, [], [Event(kind="k", message="m")], "first")

    assert after.crashes == store.get(job.id).crashes == 1
    assert len(store.events(job.id)) == 1
    assert store.update(job.id, one_crash_more, [], [], "second").crashes == 2


def test_a_change_without_effect_keeps_the_token_of_the_last_write(store: JobStore) -> None:
    # Given a worker whose write was stored, but whose reply was lost
    job = submit(store)
    store.update(job.id, one_crash_more, [], [], "worker")

    # When the reaper looks at the job and changes nothing, and the worker repeats its write
    store.update(job.id, unchanged)
    store.update(job.id, one_crash_more, [], [], "worker")

    # Then the write was made once
    assert store.get(job.id).crashes == 1


def test_events_may_depend_on_what_was_written(store: JobStore) -> None:
    job = submit(store)

    store.update(job.id, one_crash_more, events=lambda after: [Event(kind="crash", message=str(after.crashes))])

    assert [event.message for event in store.events(job.id)] == ["1"]


def test_a_lost_job_is_restored_with_its_metrics_and_events(store: JobStore) -> None:
    other = MemoryJobStore()
    job = submit(other).model_copy(update={"fence": 3})

    assert store.restore(job, [{"nimg": 2.0}, {"nimg": 1.0}], [Event(kind="rebuilt", message="m")])

    assert store.get(job.id) == job
    assert store.list(JobStatus.QUEUED).jobs == store.list().jobs == [job]
    assert [row["nimg"] for row in store.metrics(job.id)] == [1.0, 2.0]
    assert [event.kind for event in store.events(job.id)] == ["rebuilt"]


def test_a_job_that_the_store_has_is_not_restored(store: JobStore) -> None:
    job = submit(store)

    assert not store.restore(job.model_copy(update={"fence": 9}), [{"nimg": 1.0}], [Event(kind="k", message="m")])

    assert (store.get(job.id), store.metrics(job.id), store.events(job.id)) == (job, [], [])


def test_a_job_is_unsent_until_its_message_is_sent_or_it_is_no_longer_queued(store: JobStore) -> None:
    older, newer = submit(store, "job-1"), submit(store, "job-2")
    assert store.unsent() == [older, newer]

    store.update(older.id, enqueued)
    assert store.unsent() == [newer]
    store.update(newer.id, moved_to(JobStatus.CANCELLED))
    assert store.unsent() == []
    store.update(older.id, lambda job, _: job.model_copy(update={"enqueued_at": None}))
    assert [job.id for job in store.unsent()] == ["job-1"]


def test_waiting_jobs_are_sorted_by_age(store: JobStore) -> None:
    for name in ("job-2", "job-3", "job-1", "job-4"):
        submit(store, name)
    store.update("job-2", moved_to(JobStatus.CANCELLED))

    assert [job.id for job in store.waiting(limit=2)] == ["job-1", "job-3"]
    assert [job.id for job in store.waiting(limit=9)] == ["job-1", "job-3", "job-4"]


# Records


def test_a_created_job_can_be_read(store: JobStore) -> None:
    job, is_new = store.create(a_job)

    assert is_new
    assert store.get(job.id) == job


def test_a_job_is_created_at_the_time_of_the_store(store: JobStore) -> None:
    before = store.now()
    job = submit(store)

    assert before <= job.created_at <= store.now()
    assert before.tzinfo is UTC


def test_a_failed_creation_stores_nothing(store: JobStore) -> None:
    key = Idempotency("key", "body")

    def fails(now: datetime) -> Job:
        raise IllegalTransition("not now")

    with pytest.raises(IllegalTransition):
        store.create(fails, key)

    assert store.list().jobs == []
    assert store.create(a_job, key)[1]


def test_an_unknown_job_is_named(store: JobStore) -> None:
    with pytest.raises(UnknownJob, match="there is no job 'nobody'"):
        store.get("nobody")
    with pytest.raises(UnknownJob, match="there is no job 'nobody'"):
        store.update("nobody", unchanged, [{"nimg": 1.0}], [Event(kind="k", message="m")])

    assert (store.list().jobs, store.metrics("nobody"), store.events("nobody")) == ([], [], [])


def test_the_store_responds_to_a_ping(store: JobStore) -> None:
    store.ping()


# Changes


def test_an_update_replaces_the_record_by_what_the_change_returns(store: JobStore) -> None:
    job = submit(store)
    before = store.now()

    after = store.update(job.id, enqueued)

    assert store.get(job.id) == after
    assert after.enqueued_at is not None
    assert before <= after.enqueued_at <= store.now()


@pytest.mark.usefixtures("frequent_thread_switches")
def test_concurrent_updates_are_all_applied(store: JobStore) -> None:
    threads, updates = 8, 15
    job = submit(store)
    start = threading.Barrier(threads)

    def count(_: int) -> None:
        start.wait()
        for _ in range(updates):
            store.update(job.id, one_crash_more, events=[Event(kind="counted", message="one more")])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, range(threads)))

    assert store.get(job.id).crashes == threads * updates
    assert len(store.events(job.id)) == threads * updates


def test_a_change_that_is_refused_writes_nothing(store: JobStore) -> None:
    job = submit(store)

    with pytest.raises(IllegalTransition, match="not now"):
        store.update(job.id, refused, [{"nimg": 1.0}], [Event(kind="k", message="m")])

    assert (store.get(job.id), store.metrics(job.id), store.events(job.id)) == (job, [], [])


def test_a_metrics_row_without_nimg_writes_nothing(store: JobStore) -> None:
    job = submit(store)

    with pytest.raises(KeyError, match="nimg"):
        store.update(job.id, one_crash_more, [{"nimg": 1.0}, {"loss_d": 0.5}], [Event(kind="k", message="m")])

    assert (store.get(job.id), store.metrics(job.id), store.events(job.id)) == (job, [], [])


def test_record_metrics_and_events_are_written_together(store: JobStore) -> None:
    job = submit(store)

    store.update(job.id, one_crash_more, [{"nimg": 1.0}], [Event(kind="k", message="m")])

    assert store.get(job.id).crashes == 1
    assert store.metrics(job.id) == [{"nimg": 1.0}]
    assert [event.kind for event in store.events(job.id)] == ["k"]


# Metrics


def test_metrics_are_sorted_by_images(store: JobStore) -> None:
    job = submit(store)

    store.update(job.id, unchanged, [{"nimg": 100.0, "lr": 0.5}, {"nimg": 9.0}])
    store.update(job.id, unchanged, [{"nimg": 20.0}])

    assert store.metrics(job.id) == [{"nimg": 9.0}, {"nimg": 20.0}, {"nimg": 100.0, "lr": 0.5}]


def test_a_row_for_the_same_images_replaces_the_first(store: JobStore) -> None:
    # A run that resumes from a checkpoint repeats the positions after it.
    job = submit(store)
    store.update(job.id, unchanged, [{"nimg": 10.0, "lr": 0.5}, {"nimg": 20.0, "lr": 0.5}])

    store.update(job.id, unchanged, [{"nimg": 20.0, "lr": 0.25}])

    assert store.metrics(job.id) == [{"nimg": 10.0, "lr": 0.5}, {"nimg": 20.0, "lr": 0.25}]


def test_metrics_after_a_position(store: JobStore) -> None:
    job = submit(store)
    store.update(job.id, unchanged, [{"nimg": n} for n in (0.0, 10.0, 20.0)])

    assert store.metrics(job.id, after_nimg=-1) == [{"nimg": 0.0}, {"nimg": 10.0}, {"nimg": 20.0}]
    assert store.metrics(job.id, after_nimg=10) == [{"nimg": 20.0}]
    assert store.metrics(job.id, after_nimg=20) == []


def test_metrics_belong_to_one_job(store: JobStore) -> None:
    job, other = submit(store), submit(store)

    store.update(job.id, unchanged, [{"nimg": 1.0}])

    assert store.metrics(other.id) == []


# Events


def test_events_are_read_in_order_with_their_data(store: JobStore) -> None:
    job = submit(store)

    store.update(job.id, unchanged, events=[Event(kind="first", message="größer", data={"a": [1, None, "x"]})])
    store.update(job.id, unchanged, events=[Event(kind="second", message=""), Event(kind="third", message="")])

    first, second, third = store.events(job.id)
    assert (first.kind, first.message, first.data) == ("first", "größer", {"a": [1, None, "x"]})
    assert (second.kind, third.kind) == ("second", "third")


def test_the_store_assigns_ids_and_times_to_events(store: JobStore) -> None:
    job = submit(store)
    a_millisecond = timedelta(milliseconds=1)  # the precision of event times in Redis
    before = store.now() - a_millisecond

    store.update(job.id, unchanged, events=[Event(kind="k", message="", id="mine") for _ in range(3)])

    events = store.events(job.id)
    assert len({event.id for event in events} - {"", "mine"}) == 3
    for event in events:
        assert event.at is not None
        assert before <= event.at <= store.now() + a_millisecond


@pytest.mark.parametrize("seen", range(12))
def test_events_after_an_id(store: JobStore, seen: int) -> None:
    job = submit(store)
    store.update(job.id, unchanged, events=[Event(kind=str(n), message="") for n in range(12)])
    events = store.events(job.id)

    assert store.events(job.id, after=events[seen].id) == events[seen + 1 :]


def test_events_belong_to_one_job(store: JobStore) -> None:
    job, other = submit(store), submit(store)

    store.update(job.id, unchanged, events=[Event(kind="k", message="")])

    assert store.events(other.id) == []


# Lists


def test_jobs_are_listed_newest_first(store: JobStore) -> None:
    for job_id in ("20260102-b", "20260101-a", "20260103-c"):
        submit(store, job_id)

    page = store.list()

    assert [job.id for job in page.jobs] == ["20260103-c", "20260102-b", "20260101-a"]
    assert page.jobs == [store.get(job.id) for job in page.jobs]
    assert not page.has_more


@pytest.mark.parametrize(
    ("limit", "pages"), [(1, ["e", "d", "c", "b", "a"]), (2, ["ed", "cb", "a"]), (5, ["edcba"]), (6, ["edcba"])]
)
def test_pages_follow_each_other(store: JobStore, limit: int, pages: list[str]) -> None:
    for job_id in "abcde":
        submit(store, job_id)

    after: str | None = None
    for number, expected in enumerate(pages, start=1):
        page = store.list(after=after, limit=limit)
        assert "".join(job.id for job in page.jobs) == expected
        assert page.has_more == (number < len(pages))
        after = page.jobs[-1].id


def test_a_page_continues_after_an_id_that_does_not_exist(store: JobStore) -> None:
    for job_id in "ace":
        submit(store, job_id)

    assert [job.id for job in store.list(after="d").jobs] == ["c", "a"]
    assert store.list(after="a").jobs == []


def test_jobs_by_status_follow_their_changes(store: JobStore) -> None:
    for job_id in "abc":
        submit(store, job_id)

    store.update("b", moved_to(JobStatus.RUNNING))
    store.update("c", moved_to(JobStatus.RUNNING))
    store.update("c", moved_to(JobStatus.FAILED))

    def ids(status: JobStatus | None) -> str:
        return "".join(job.id for job in store.list(status).jobs)

    assert {status: ids(status) for status in JobStatus if ids(status)} == {
        "queued": "a",
        "running": "b",
        "failed": "c",
    }
    assert ids(None) == "cba"


def test_paging_within_a_status(store: JobStore) -> None:
    for job_id in "abcd":
        submit(store, job_id)
    store.update("c", moved_to(JobStatus.PAUSED))

    first = store.list(JobStatus.QUEUED, limit=2)
    rest = store.list(JobStatus.QUEUED, after="b", limit=2)

    assert ([job.id for job in first.jobs], first.has_more) == (["d", "b"], True)
    assert ([job.id for job in rest.jobs], rest.has_more) == (["a"], False)


def test_a_store_without_jobs_lists_none(store: JobStore) -> None:
    assert (store.list().jobs, store.list().has_more) == ([], False)


# Deletion


def test_a_deleted_job_leaves_nothing(store: JobStore) -> None:
    other, job = submit(store), submit(store)
    store.update(job.id, moved_to(JobStatus.FAILED), [{"nimg": 1.0}], [Event(kind="k", message="m")])

    store.delete(job.id)

    with pytest.raises(UnknownJob):
        store.get(job.id)
    with pytest.raises(UnknownJob):
        store.delete(job.id)
    assert store.list().jobs == [other]
    assert (store.list(JobStatus.FAILED).jobs, store.metrics(job.id), store.events(job.id)) == ([], [], [])


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED])
def test_a_job_that_is_not_over_is_not_deleted(store: JobStore, status: JobStatus) -> None:
    job = submit(store)
    job = store.update(job.id, moved_to(status))

    with pytest.raises(IllegalTransition, match=f"job {job.id} is {status}; cancel it before you delete it"):
        store.delete(job.id)

    assert store.get(job.id) == job


def test_a_worker_cannot_restore_a_deleted_job(store: JobStore) -> None:
    job = submit(store)
    store.update(job.id, moved_to(JobStatus.CANCELLED))
    store.delete(job.id)

    with pytest.raises(StaleFence, match="was deleted"):
        store.restore(job, [], [])

    assert store.list().jobs == []


def test_a_repeated_request_for_a_deleted_job_creates_a_new_one(store: JobStore) -> None:
    first, _ = store.create(a_job, Idempotency("key", "body"))
    store.update(first.id, moved_to(JobStatus.CANCELLED))
    store.delete(first.id)

    second, is_new = store.create(a_job, Idempotency("key", "body"))

    assert is_new
    assert store.create(a_job, Idempotency("key", "body")) == (second, False)


# Idempotency keys


def test_a_repeated_request_returns_the_same_job(store: JobStore) -> None:
    first, first_is_new = store.create(a_job, Idempotency("key", "body"))
    store.update(first.id, one_crash_more)

    again, again_is_new = store.create(a_job, Idempotency("key", "body"))

    assert (first_is_new, again_is_new) == (True, False)
    assert again == store.get(first.id)  # in its present state
    assert len(store.list().jobs) == 1


@pytest.mark.usefixtures("frequent_thread_switches")
def test_the_same_request_from_many_threads_creates_one_job(store: JobStore) -> None:
    threads = 16
    start = threading.Barrier(threads)

    def post(_: int) -> tuple[Job, bool]:
        start.wait()
        return store.create(a_job, Idempotency("key", "body"))

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(post, range(threads)))

    assert len({job.id for job, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1
    assert len(store.list().jobs) == 1


def test_a_key_with_another_body_is_refused(store: JobStore) -> None:
    first, _ = store.create(a_job, Idempotency("key", "body"))

    with pytest.raises(IdempotencyMismatch, match="'key' was used before with another body"):
        store.create(a_job, Idempotency("key", "another body"))

    assert store.list().jobs == [first]


def test_other_keys_and_requests_without_keys_create_new_jobs(store: JobStore) -> None:
    for idempotency in (Idempotency("one", "body"), Idempotency("two", "body"), None, None):
        assert store.create(a_job, idempotency)[1]

    assert len(store.list().jobs) == 4


# Redis only


@pytest.fixture
def redis_store(redis_url: str) -> Iterator[RedisJobStore]:
    store = RedisJobStore(redis_url)
    yield store
    store.close()


def test_two_stores_on_one_redis_share_their_jobs(redis_store: RedisJobStore, redis_url: str) -> None:
    other = RedisJobStore(redis_url)
    job, _ = redis_store.create(a_job, Idempotency("key", "body"))

    assert other.create(a_job, Idempotency("key", "body")) == (job, False)
    other.update(job.id, one_crash_more, [{"nimg": 1.0}], [Event(kind="k", message="m")])
    assert redis_store.get(job.id).crashes == 1
    assert redis_store.metrics(job.id) == other.metrics(job.id)
    assert redis_store.events(job.id) == other.events(job.id)
    other.close()


def test_a_change_without_effect_writes_nothing(redis_store: RedisJobStore, redis_url: str) -> None:
    job = submit(redis_store)
    with redis.Redis.from_url(redis_url) as administrator:
        before = administrator.info("commandstats")
        redis_store.update(job.id, unchanged)
        after = administrator.info("commandstats")

    for command in ("set", "zadd", "zrem", "publish"):
        assert after.get(f"cmdstat_{command}", {}).get("calls") == before.get(f"cmdstat_{command}", {}).get("calls")


def test_all_remaining_keys_of_a_deleted_job_expire(redis_store: RedisJobStore, redis_url: str) -> None:
    job, _ = redis_store.create(a_job, Idempotency("key", "body"))
    redis_store.update(job.id, moved_to(JobStatus.FAILED), [{"nimg": 1.0}], [Event(kind="k", message="m")])
    redis_store.delete(job.id)

    with redis.Redis.from_url(redis_url, decode_responses=True) as administrator:
        assert [name for name in administrator.scan_iter() if administrator.ttl(name) == -1] == []


def test_a_token_expires(redis_store: RedisJobStore, redis_url: str) -> None:
    job = submit(redis_store)
    redis_store.update(job.id, one_crash_more, [], [], "worker")

    with redis.Redis.from_url(redis_url) as administrator:
        assert administrator.ttl(f"kiln:token:{job.id}") > 3600


@pytest.fixture
def connection(redis_url: str) -> Iterator[BreakableConnection]:
    with breakable(int(redis_url.split(":")[2].split("/", maxsplit=1)[0])) as server:
        yield server


@pytest.fixture
def fragile(connection: BreakableConnection) -> Iterator[RedisJobStore]:
    store = RedisJobStore(f"redis://127.0.0.1:{connection.port}/0")
    yield store
    store.close()


def test_a_write_whose_reply_was_lost_is_not_repeated(fragile: RedisJobStore, connection: BreakableConnection) -> None:
    job = submit(fragile)

    connection.is_armed = True
    fragile.update(job.id, one_crash_more, events=[Event(kind="k", message="m")])

    assert not connection.is_armed
    assert fragile.get(job.id).crashes == 1
    assert len(fragile.events(job.id)) == 1


def test_a_job_whose_creation_was_not_confirmed_is_created_once(
    fragile: RedisJobStore, connection: BreakableConnection
) -> None:
    for idempotency in (None, Idempotency("key", "body")):
        connection.is_armed = True
        job, is_new = fragile.create(a_job, idempotency)

        assert not connection.is_armed
        assert is_new
        assert fragile.get(job.id) == job
    assert len(fragile.list().jobs) == 2
    assert fragile.create(a_job, Idempotency("key", "body")) == (job, False)


@pytest.mark.parametrize("option", [("maxmemory", "1"), ("min-replicas-to-write", "1")])
def test_a_redis_that_refuses_writes_is_unavailable(tmp_path: Path, option: tuple[str, str]) -> None:
    port = free_port()
    with redis_on(port, tmp_path), redis.Redis(port=port) as client:
        store = RedisJobStore(f"redis://127.0.0.1:{port}/0")
        job = submit(store)
        client.config_set(*option)

        with pytest.raises(StoreUnavailable, match="takes no writes"):
            store.update(job.id, one_crash_more)
        assert store.get(job.id) == job
        store.close()


CALLS: dict[str, Callable[[JobStore], object]] = {
    "ping": lambda store: store.ping(),
    "now": lambda store: store.now(),
    "create": lambda store: store.create(a_job),
    "create-with-key": lambda store: store.create(a_job, Idempotency("key", "body")),
    "get": lambda store: store.get("some-job"),
    "update": lambda store: store.update("some-job", unchanged),
    "list": lambda store: store.list(),
    "metrics": lambda store: store.metrics("some-job"),
    "events": lambda store: store.events("some-job"),
    "delete": lambda store: store.delete("some-job"),
    "restore": lambda store: store.restore(a_job(), [], []),
    "unsent": lambda store: store.unsent(),
    "waiting": lambda store: store.waiting(1),
    "announce": lambda store: store.announce(),
}


@pytest.fixture(scope="module")
def orphan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisJobStore]:
    """A store that was in use when its server was killed."""
    port = free_port()
    store = RedisJobStore(f"redis://127.0.0.1:{port}/0")
    with redis_on(port, tmp_path_factory.mktemp("killed")):
        submit(store, "some-job")
    yield store
    store.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_without_redis_every_call_raises(orphan: RedisJobStore, call: Callable[[JobStore], object]) -> None:
    for _ in range(2):  # first with a broken connection, then without a connection
        with pytest.raises(StoreUnavailable, match="the job store does not answer"):
            call(orphan)


def test_a_store_recovers_when_redis_restarts(tmp_path: Path) -> None:
    port = free_port()
    store = RedisJobStore(f"redis://127.0.0.1:{port}/0")
    with redis_on(port, tmp_path) as process:
        job = submit(store)
        process.terminate()  # Redis flushes its file before it exits
        process.wait()
    with pytest.raises(StoreUnavailable):
        store.get(job.id)

    with redis_on(port, tmp_path):
        assert store.get(job.id) == job
    store.close()
