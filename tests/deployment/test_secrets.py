"""The secrets: clients' API keys and the password of Redis come from files and appear nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import redis

from services.dev import API_COMMAND, WORKER_COMMAND
from shared.settings import Settings
from tests.deployment.compose import BASE, FILES
from tests.deployment.images import BACKENDS
from tests.deployment.redis_container import (
    SECRET,
    compose_redis,
    contains_password,
    in_shell,
    read_until,
    redis_on_path,
    redis_shell_command,
    running,
)
from tests.processes import ROOT

# --- Keys of clients ------------------------------------------------------------------------------------------------


def test_make_creates_a_file_of_keys_that_only_the_api_reads(tmp_path: Path) -> None:
    api = FILES["with keys"]["services"]["api"]
    assert api["secrets"] == ["redis_password", "api_keys"]
    assert api["environment"]["KILN_API_KEYS_FILE"] == "/run/secrets/api_keys"
    assert FILES["with keys"]["secrets"]["api_keys"] == {"file": "./secrets/api_keys"}
    for name in ("redis", "trainer"):
        assert "api_keys" not in FILES["with keys"]["services"][name]["secrets"]
        assert "KILN_API_KEYS" not in FILES["with keys"]["services"][name].get("environment", {})

    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "-s", "secrets/api_keys", f"PYTHON={sys.executable}"], cwd=tmp_path, check=True)
    (key,) = Settings(api_keys_file=tmp_path / "secrets" / "api_keys").keys
    assert (key.name, sorted(key.scopes)) == ("admin", ["generate", "read", "train"])


# --- The password of Redis ------------------------------------------------------------------------------------------


def test_the_password_is_in_a_file_that_git_ignores() -> None:
    assert BASE["secrets"] == {"redis_password": {"file": "./secrets/redis_password"}}
    ignored = subprocess.run(["git", "check-ignore", "-q", "secrets/redis_password"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    for name in ("redis", *BACKENDS):
        assert BASE["services"][name]["secrets"] == ["redis_password"]
    for name in BACKENDS:
        environment = BASE["services"][name]["environment"]
        assert environment["KILN_REDIS_PASSWORD_FILE"] == SECRET
        assert urlsplit(environment["KILN_REDIS_URL"]).password is None


def test_make_secrets_creates_the_password_once(tmp_path: Path) -> None:
    def make() -> str:
        command = ["make", "-f", str(ROOT / "Makefile"), "secrets", f"PYTHON={sys.executable}"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "secrets" / "redis_password").read_text()

    password = make()
    assert len(password.strip()) == 64
    assert make() == password
    # The users in the containers can read the file; other users of this machine cannot enter its folder.
    assert (tmp_path / "secrets" / "redis_password").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


PASSWORDS = ["plain-and-long", "a b'c\"d\\e#f@g:h/i%j$k`l?m&n"]


@pytest.fixture(params=PASSWORDS, ids=["plain", "every special character"])
def password_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "redis_password"
    file.write_text(request.param + "\n")
    return file


def test_redis_requires_the_password_and_persists_every_write(password_file: Path, tmp_path: Path) -> None:
    password = password_file.read_text().rstrip("\n")
    with compose_redis(tmp_path, password_file) as port:
        # Without the password, access is denied
        with (
            closing(redis.Redis.from_url(f"redis://127.0.0.1:{port}")) as client_without_password,
            pytest.raises(redis.AuthenticationError),
        ):
            client_without_password.ping()
        # With it, the server appends each write to its file and never evicts keys
        with closing(redis.Redis(port=port, password=password, decode_responses=True)) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("save") == {"save": ""}
    # The password is neither in the server's arguments nor in its environment
    started_with = (tmp_path / "started-with").read_text()
    assert "--appendonly" in started_with
    assert password not in started_with


def test_redis_refuses_to_start_with_an_empty_password(tmp_path: Path) -> None:
    # `requirepass ""` would allow access without a password.
    empty = tmp_path / "empty"
    empty.write_text("\n")
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho started")
    server.chmod(0o755)
    command, environment = redis_shell_command(empty), os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "redis_password is empty" in done.stderr
    assert done.stdout == ""


def test_the_health_check_of_redis_needs_the_right_password(password_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    test = BASE["services"]["redis"]["healthcheck"]["test"]

    def is_healthy(file: Path, port: int) -> bool:
        command, environment = ["sh", "-c", in_shell(test, file)], redis_on_path(tmp_path, port)
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    with compose_redis(tmp_path, password_file) as port:
        assert is_healthy(password_file, port)
        assert not is_healthy(wrong, port)
    assert not is_healthy(password_file, port)


def test_the_health_check_of_redis_fails_while_it_loads_its_file(password_file: Path, tmp_path: Path) -> None:
    cli = tmp_path / "redis-cli"
    cli.write_text("#!/bin/sh\necho LOADING Redis is loading the dataset in memory")  # exits with 0, as the real one
    cli.chmod(0o755)
    command = ["sh", "-c", in_shell(BASE["services"]["redis"]["healthcheck"]["test"], password_file)]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(command, env=environment, check=False).returncode != 0


def test_the_worker_reads_the_password_file_and_never_logs_the_password(password_file: Path, tmp_path: Path) -> None:
    with compose_redis(tmp_path, password_file) as port, running(WORKER_COMMAND, password_file, port) as worker:
        log = read_until(" ready.", worker)  # Celery prints it once it listens to the queue
        worker.terminate()
        log += read_until(None, worker)
        assert worker.wait() == 0
    assert "Connected to redis://" in log
    assert not contains_password(log, password_file)


def test_the_api_reads_the_password_file_and_never_logs_the_password(password_file: Path, tmp_path: Path) -> None:
    with compose_redis(tmp_path, password_file) as port, running(API_COMMAND, password_file, port) as api:
        log = read_until("Uvicorn running on ", api)
        url = log.rsplit("Uvicorn running on ", 1)[1].split()[0]
        assert httpx2.get(f"{url}/jobs").json() == {"data": [], "has_more": False}
        api.terminate()
        log += read_until(None, api)
    assert "/jobs" in log
    assert not contains_password(log, password_file)
