"""Starts an API and a redis-server for one drill, which may stop, suspend and kill them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from services.dev import find_redis_server, free_port, redis_command, wait_for_redis
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.processes import PATIENCE_S, ROOT, SMALL_MACHINE, wait_for

MANY = httpx2.Limits(max_connections=None)


@dataclass
class Server:
    """`python -m services.api` with its redis-server."""

    url: str
    data: Path
    api: subprocess.Popen[bytes]
    redis: subprocess.Popen[bytes]
    redis_port: int
    http: httpx2.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(ArtifactStore(f"file://{self.data}/artifacts"))

    def log(self) -> str:
        return (self.data / "api.log").read_text()

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.http.get("/readyz"), lambda answer: answer.status_code == 200)

    def restart_redis(self) -> None:
        """Starts redis-server again on the same port and file, after the previous one has ended."""
        self.redis = _start_redis(self.redis_port, self.data / "redis")

    @contextmanager
    def frozen_redis(self) -> Iterator[None]:
        """Suspends Redis: connections stay open, the kernel accepts new ones, and no reply arrives."""
        self.redis.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.redis.send_signal(signal.SIGCONT)

    def size(self) -> dict[str, float]:
        """Resident memory in MB and file descriptors of the API and of Redis."""
        processes = {"api": Path("/proc", str(self.api.pid)), "redis": Path("/proc", str(self.redis.pid))}
        pages = {name: int((process / "statm").read_text().split()[1]) for name, process in processes.items()}
        memory = {f"{name}_mb": count * resource.getpagesize() / 1e6 for name, count in pages.items()}
        return memory | {f"{name}_fds": len(list((process / "fd").iterdir())) for name, process in processes.items()}


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Server]:
    """Starts a redis-server and an API, and stops them when the block ends."""
    data, port, redis_port = folder / "data", free_port(), free_port()
    (data / "redis").mkdir(parents=True)
    redis = _start_redis(redis_port, data / "redis")
    environment = os.environ | SMALL_MACHINE | {
        "KILN_DATA": str(data), "KILN_PORT": str(port), "KILN_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "KILN_ARTIFACTS": f"file://{data}/artifacts", "KILN_DRAIN_S": "0",
        "KILN_ACCESS_LOG": "true",  # drills count responses in it
    } | settings  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (data / "api.log").open("wb") as log, httpx2.Client(base_url=url, timeout=120, limits=MANY) as http:
        api = subprocess.Popen(
            [sys.executable, "-m", "services.api"], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        server = Server(url, data, api, redis, redis_port, http)
        try:
            wait_for(lambda: (api.poll(), _responds(http)), lambda seen: seen != (None, False))
            assert api.poll() is None, server.log()
            yield server
        finally:
            server.redis.send_signal(signal.SIGCONT)
            api.terminate()
            api.wait(PATIENCE_S)
            server.redis.kill()
            server.redis.wait()


def allow_many_files() -> None:
    """Raises the limit on open files to the maximum; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_redis(port: int, folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(redis_command(find_redis_server(), port, folder), stdout=subprocess.DEVNULL)
    wait_for_redis(port, process)
    return process


def _responds(http: Any) -> bool:
    try:
        return bool(http.get("/healthz").status_code == 200)
    except httpx2.TransportError:
        return False
