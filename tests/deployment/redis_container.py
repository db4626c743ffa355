"""The Redis of docker-compose.yml and the services beside it, started on this machine without containers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

from services.dev import find_redis_server, free_port
from tests.deployment.compose import BASE
from tests.processes import ROOT, wait_for

SECRET = "/run/secrets/redis_password"  # noqa: S105 - a path, not a secret


def in_shell(command: str, password_file: Path) -> str:
    """A command of the compose file as the container's shell receives it, with another path of the secret."""
    assert SECRET in command
    return command.replace("$$", "$").replace(SECRET, shlex.quote(str(password_file)))


def redis_shell_command(password_file: Path) -> list[str]:
    *shell, script = BASE["services"]["redis"]["command"]
    return [*shell, in_shell(script, password_file)]


def redis_on_path(folder: Path, port: int) -> dict[str, str]:
    """An environment in which `redis-server` and `redis-cli` use the port, and the server writes into the folder."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    server = find_redis_server()
    cli = shutil.which("redis-cli") or str(Path(sys.executable).parent / "redis-cli")
    record = shlex.quote(str(folder / "started-with"))
    options = f"--port {port} --bind 127.0.0.1 --dir {shlex.quote(str(folder))}"
    for name, line in (
        ("redis-server", f'{{ echo "$@"; env; }} > {record}; exec {shlex.quote(server)} "$@" {options}'),
        ("redis-cli", f'exec {shlex.quote(cli)} -p {port} "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    return os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def compose_redis(folder: Path, password_file: Path) -> Iterator[int]:
    """Runs the command of docker-compose.yml. Yields the server's port."""
    port = free_port()
    command, environment = redis_shell_command(password_file), redis_on_path(folder, port)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (process.poll(), _responds(port)), lambda state: state != (None, False))
            assert process.poll() is None
            yield port
        finally:
            process.terminate()


@contextmanager
def running(command: Sequence[str], password_file: Path, redis_port: int) -> Iterator[subprocess.Popen[str]]:
    """Runs a service with the environment of docker-compose.yml, as far as it applies outside a container."""
    environment = os.environ | {
        "KILN_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "KILN_REDIS_PASSWORD_FILE": str(password_file),
        "KILN_DATA": str(password_file.parent / "data"), "KILN_PORT": str(free_port()),
        "KILN_ACCESS_LOG": "1",  # so that it logs as much as it can
    }  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(mark: str | None, process: subprocess.Popen[str]) -> str:
    """The output up to the line that contains `mark`, or all of it for None."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if mark is not None and mark in line:
            return output
    assert mark is None, f"the process ended without printing {mark!r}: {output}"
    return output


def contains_password(text: str, password_file: Path) -> bool:
    password = password_file.read_text().rstrip("\n")
    return password in text or quote(password, safe="") in text


def _responds(port: int) -> bool:
    # Redis() would retry by itself; a client made with from_url does not.
    with closing(redis.Redis.from_url(f"redis://127.0.0.1:{port}")) as client:
        try:
            client.ping()
        except redis.AuthenticationError:  # a response too
            return True
        except redis.RedisError:
            return False
        return True
