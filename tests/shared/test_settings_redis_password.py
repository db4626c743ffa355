"""`KILN_REDIS_PASSWORD_FILE`: the password of Redis comes from a file and appears in no output."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from services.dev import find_redis_server, free_port, redis_command, wait_for_redis
from shared.errors import InvalidInput, StoreUnavailable
from shared.jobs.store import RedisJobStore
from shared.settings import Settings, read_settings
from shared.storage.celery_app import Broker

PASSWORD = "p@ss:w/ö%rd #1?"  # noqa: S105 - characters with a meaning in URLs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n", encoding="utf-8")
    return file


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[str]:
    """URL, without the password, of a redis-server that requires one."""
    port = free_port()
    command = redis_command(find_redis_server(), port, tmp_path)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for_redis(port, process)
        with redis.Redis(port=port) as client:
            client.config_set("requirepass", PASSWORD)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


def test_the_job_store_and_the_queue_need_the_password_file(guarded_redis: str, file: Path) -> None:
    settings = Settings(redis_url=guarded_redis, redis_password_file=file)
    with closing(RedisJobStore(settings.redis_url)) as store, closing(Broker(settings)) as broker:
        store.ping()
        broker.enqueue_training("a-job")
        assert broker.waiting() == 1

    without_password = Settings(redis_url=guarded_redis)
    with closing(RedisJobStore(without_password.redis_url)) as store, pytest.raises(StoreUnavailable):
        store.ping()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", "redis://:a%2Fb@h"),
        ("redis://h:6380?db=2", "redis://:a%2Fb@h:6380/2"),
        ("redis://user@h/0", "redis://user:a%2Fb@h/0"),
        ("redis://:@h/0", "redis://:a%2Fb@h/0"),
        ("rediss://[::1]:6380/0", "rediss://:a%2Fb@[::1]:6380/0"),
        ("unix:///run/redis.sock", "unix://:a%2Fb@/run/redis.sock"),
        ("redis://:own@h/0", "redis://:own@h/0"),
        ("redis://user:own@h/0", "redis://user:own@h/0"),
    ],
)
def test_the_password_is_added_to_a_url_without_one(url: str, expected: str, file: Path) -> None:
    file.write_text("a/b\n")
    assert Settings(redis_url=url, redis_password_file=file).redis_url == expected


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_line_end_is_not_part_of_the_password(ending: str, file: Path) -> None:
    file.write_bytes(b"a" + ending.encode())
    assert Settings(redis_url="redis://h/0", redis_password_file=file).redis_url == "redis://:a@h/0"


def test_without_the_file_the_url_is_unchanged() -> None:
    assert Settings(redis_url="redis://h/0").redis_url == "redis://h/0"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "must contain exactly one line"),
        (b"\n", "must contain exactly one line"),
        (b"one\ntwo\n", "must contain exactly one line"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
    ],
    ids=["missing", "empty", "blank", "two lines", "binary"],
)
def test_a_file_that_holds_no_password_is_named_with_its_variable(
    content: bytes | None, why: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.unlink() if content is None else file.write_bytes(content)
    monkeypatch.setenv("KILN_REDIS_PASSWORD_FILE", str(file))
    with pytest.raises(InvalidInput) as raised:
        read_settings()
    (problem,) = raised.value.problems
    assert (problem.field, problem.value) == ("KILN_REDIS_PASSWORD_FILE", str(file))
    assert why in problem.message


def test_no_repr_and_no_error_shows_the_password(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("tell-nobody")
    monkeypatch.setenv("KILN_REDIS_URL", "redis://h/0")
    monkeypatch.setenv("KILN_REDIS_PASSWORD_FILE", str(file))
    settings = read_settings()
    assert "tell-nobody" in settings.redis_url
    assert "tell-nobody" not in f"{settings!r} {settings}"

    # A URL that cannot be parsed is reported without the part that may be a password
    monkeypatch.setenv("KILN_REDIS_URL", "redis://:tell-nobody@[h/0")
    with pytest.raises(InvalidInput) as raised:
        read_settings()
    assert raised.value.problems[0].field == "KILN_REDIS_URL"
    assert "tell-nobody" not in str(raised.value)
