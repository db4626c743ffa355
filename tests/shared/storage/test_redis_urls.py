"""Every form of KILN_REDIS_URL connects the job store, the announcements and Celery to the same Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from shared.errors import InvalidInput, StoreUnavailable
from shared.jobs.store import RedisJobStore
from shared.settings import Settings, read_settings
from shared.storage.celery_app import TRAINING_QUEUE, Broker, make_celery
from shared.storage.pubsub import Announcements
from tests.shared.examples import a_job
from tests.shared.redis_servers import Certificates, make_certificates, redis_with, redis_with_tls

PASSWORD = "p@ss:w/d#1"  # noqa: S105 - characters with a meaning in URLs


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The unix socket of a redis-server that requires a password."""
    folder = tmp_path_factory.mktemp("socket")
    path = str(folder / "redis.sock")
    with redis_with(["--unixsocket", path], folder):
        with redis.Redis(unix_socket_path=path) as client:
            client.config_set("requirepass", PASSWORD)
        yield path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("other-certificates")).ca


@pytest.fixture(scope="module")
def tls_port(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_with_tls(certificates, tmp_path_factory.mktemp("tls")) as port:
        yield port


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    return file


def assert_all_meet(settings: Settings) -> None:
    """The job store, the announcements, the API's side of the queue and the worker's use one database of one Redis."""
    # Given a job store and a subscriber
    store, announcements = RedisJobStore(settings.redis_url), Announcements(settings.redis_url)
    job, _ = store.create(a_job)
    assert store.get(job.id) == job

    async def hear() -> None:
        await announcements.wait(10)
        store.announce()
        await announcements.wait(10)
        await announcements.close()

    asyncio.run(hear())

    # When the API sends the job, and a worker's connection takes it
    broker = Broker(settings)
    broker.enqueue_training(job.id)
    assert broker.waiting() == 1
    with make_celery(settings).connection() as connection, connection.SimpleQueue(TRAINING_QUEUE) as queue:
        message = queue.get(timeout=10)
        message.ack()

    # Then the worker has the job's id, and the queue that the API counts is empty
    assert message.payload[0] == [job.id]
    assert broker.waiting() == 0
    broker.close()
    store.close()


# Unix sockets


@pytest.mark.parametrize(
    "form", ["unix://{}", "unix://{}?db=2", "redis+socket://{}", "redis+socket://{}?virtual_host=2"]
)
def test_redis_by_unix_socket_serves_api_and_workers(form: str, socket_path: str, password_file: Path) -> None:
    assert_all_meet(Settings(redis_url=form.format(socket_path), redis_password_file=password_file))


def test_celerys_url_of_a_socket_means_the_same_database(socket_path: str, password_file: Path) -> None:
    with redis.Redis(unix_socket_path=socket_path, password=PASSWORD, db=3) as client:
        client.flushdb()
        url = f"redis+socket://{socket_path}?virtual_host=3"
        store = RedisJobStore(Settings(redis_url=url, redis_password_file=password_file).redis_url)
        store.create(a_job)
        assert client.dbsize() > 0
        store.close()


@pytest.mark.parametrize("form", ["unix://{}?db=1", "redis+socket://{}?virtual_host=1"])
def test_a_socket_without_a_password_works_too(form: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with redis_with(["--unixsocket", str(path)], tmp_path):
        assert_all_meet(Settings(redis_url=form.format(path)))


# TLS


def test_redis_by_tls_with_a_private_ca_serves_api_and_workers(tls_port: int, certificates: Certificates) -> None:
    assert_all_meet(Settings(redis_url=f"rediss://localhost:{tls_port}/0", redis_ca=certificates.ca))


def ping(settings: Settings) -> None:
    with closing(RedisJobStore(settings.redis_url)) as store:
        store.ping()


def subscribe(settings: Settings) -> None:
    async def wait() -> None:
        announcements = Announcements(settings.redis_url)
        try:
            await announcements.wait(5)
        finally:
            await announcements.close()

    asyncio.run(wait())


def send(settings: Settings) -> None:
    with closing(Broker(settings)) as broker:
        broker.enqueue_training("a-job")


def count(settings: Settings) -> None:
    with closing(Broker(settings)) as broker:
        broker.waiting()


Connect = Callable[[Settings], None]
PARTS: list[Connect] = [ping, subscribe, send, count]  # all parts of the API that connect to Redis


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("trusted", ["nothing", "another CA"])
def test_no_password_is_sent_to_a_redis_with_an_unknown_certificate(
    part: Connect, trusted: str, tls_port: int, other_ca: Path, password_file: Path
) -> None:
    ca = None if trusted == "nothing" else other_ca
    settings = Settings(redis_url=f"rediss://localhost:{tls_port}/0", redis_ca=ca, redis_password_file=password_file)

    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        part(settings)


@pytest.mark.parametrize("part", PARTS)
def test_a_certificate_for_another_host_is_refused(part: Connect, tls_port: int, certificates: Certificates) -> None:
    settings = Settings(redis_url=f"rediss://127.0.0.1:{tls_port}/0", redis_ca=certificates.ca)

    with pytest.raises(StoreUnavailable, match=r"certificate is not valid for '127\.0\.0\.1'"):
        part(settings)


def test_a_worker_refuses_an_unknown_certificate(tls_port: int, other_ca: Path) -> None:
    settings = Settings(redis_url=f"rediss://localhost:{tls_port}/0", redis_ca=other_ca)

    with make_celery(settings).connection() as connection, pytest.raises(Exception, match="certificate verify failed"):
        connection.default_channel.client.ping()


# URLs that are refused at the start


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://redis:6379", "must be redis://host"),
        ("redis:6379", "must be redis://host"),
        ("sentinel://redis:26379/0", "must be redis://host"),
        ("redis://redis:port/0", "is not a URL: Port"),
        ("redis://redis:6379/jobs", "database 'jobs'"),
        ("redis://redis:6379/0?db=1", "names the database twice"),
        ("unix://redis.sock", "absolute path"),
        ("unix://", "absolute path"),
        ("redis+socket://", "absolute path"),
        ("unix:///run/redis.sock?db=jobs", "database 'jobs'"),
        ("redis://redis/0?socket_timeout=5", "option 'socket_timeout'"),
        ("rediss://redis/0?ssl_cert_reqs=none", "option 'ssl_cert_reqs'"),
        ("rediss://redis/0?ssl_check_hostname=false", "option 'ssl_check_hostname'"),
    ],
)
def test_a_url_that_redis_or_celery_cannot_use_is_refused_at_the_start(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_REDIS_URL", url)

    with pytest.raises(InvalidInput) as refused:
        read_settings()

    (problem,) = refused.value.problems
    assert problem.field == "KILN_REDIS_URL"
    assert message in problem.message


@pytest.mark.parametrize(
    "url", ["redis://:secret@h/jobs", "http://u:secret@h", "unix://:secret@run", "redis://:secret@[h"]
)
def test_a_refused_url_is_shown_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_REDIS_URL", url)

    with pytest.raises(InvalidInput) as refused:
        read_settings()

    assert "secret" not in str(refused.value)
    assert "secret" not in repr(refused.value)


def test_a_ca_for_a_redis_without_tls_is_refused(certificates: Certificates) -> None:
    with pytest.raises(InvalidInput, match=r"KILN_REDIS_CA: .* use rediss://"):
        Settings(redis_url="redis://localhost:6379/0", redis_ca=certificates.ca)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "text"])
def test_a_ca_file_without_a_certificate_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(InvalidInput, match="KILN_REDIS_CA"):
        Settings(redis_url="rediss://localhost:6379/0", redis_ca=file)


def test_the_path_of_the_ca_may_contain_special_characters(
    certificates: Certificates, tls_port: int, tmp_path: Path
) -> None:
    file = tmp_path / "ca & co?#1.crt"
    file.write_bytes(certificates.ca.read_bytes())
    assert_all_meet(Settings(redis_url=f"rediss://localhost:{tls_port}/0", redis_ca=file))
