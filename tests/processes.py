"""Starts the real services as processes for tests: a whole stack, or the API alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np
from PIL import Image

from services.dev import free_port
from shared.settings import Settings

ROOT = Path(__file__).parents[1]
T = TypeVar("T")

PATIENCE_S = 240.0  # after this time a test stops waiting and fails; it does not measure speed


class Stack:
    """`python -m services.dev` on a free port, and an HTTP client for its API."""

    def __init__(self, process: subprocess.Popen[str], port: int, data: Path) -> None:
        self.process, self.port, self.data = process, port, data
        self.dashboard_url = ""  # of stacks with a dashboard
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def submit(self, **body: Any) -> str:
        answer = self.http.post("/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.http.get(f"/jobs/{job_id}").json()
        return job

    def wait_for_job(self, job_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return wait_for(lambda: self.job(job_id), is_so)

    def wait_until_over(self, job_id: str) -> dict[str, Any]:
        return self.wait_for_job(job_id, lambda job: job["status"] not in ("queued", "running", "paused"))

    def pids(self) -> dict[str, int]:
        """The process ids of the services, by name, as the stack printed them."""
        lines = (self.data / "stack.out").read_text().splitlines()
        return {line.split()[0]: int(line.split()[2]) for line in lines if " pid " in line}


def wait_for(look: Callable[[], T], is_so: Callable[[T], bool]) -> T:
    """Calls `look` until `is_so` holds for its result, and returns the result. Fails with the last one."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        seen = look()
        if is_so(seen):
            return seen
        assert time.monotonic() < deadline_s, f"gave up after {PATIENCE_S:g} s; last result: {seen}"
        time.sleep(0.1)


def unobserved() -> dict[str, str]:
    """The environment without pytest's variable, with which NiceGUI would serve its own tests."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@contextmanager
def running_stack(data: Path, datasets: Path, **settings: str) -> Iterator[Stack]:
    """Starts a stack, waits until its API responds, and stops the stack at the end."""
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    output = data / "stack.out"
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.dev", "--port", str(port), "--data", str(data),
             "--datasets", str(datasets)],
            cwd=ROOT, env=unobserved() | SMALL_MACHINE | settings, stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    stack = Stack(process, port, data)
    try:
        wait_for(lambda: (process.poll(), _is_live(stack.http)), lambda seen: seen[0] is not None or seen[1])
        assert process.poll() is None, output.read_text()
        yield stack
    finally:
        stack.http.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


@contextmanager
def running_api(settings: Settings, **more: str) -> Iterator[httpx2.Client]:
    """Starts `python -m services.api` with the Redis and the folders of the settings, and stops it at the end."""
    port = free_port()
    environment = os.environ | SMALL_MACHINE | {
        "KILN_DATA": str(settings.data), "KILN_DATASETS": str(settings.dataset_root), "KILN_PORT": str(port),
        "KILN_REDIS_URL": settings.redis_url, "KILN_LEASE_S": str(settings.lease_s),
    } | more  # fmt: skip
    settings.data.mkdir(parents=True, exist_ok=True)
    log_path = settings.data / f"api-{port}.log"
    with log_path.open("w") as log, httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.api"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: (process.poll(), _is_live(http)), lambda seen: seen[0] is not None or seen[1])
            assert process.poll() is None, log_path.read_text()
            yield http
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def processes_of(data: Path) -> dict[int, str]:
    """All processes that were started for this data folder, except zombies: pid -> command line."""
    commands = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            directory = (folder / "cwd").readlink()
        except OSError:  # the process has ended, or belongs to another user
            continue
        # redis-server overwrites its environment with its title, but its working directory is in the data folder.
        if f"KILN_DATA={data}".encode() in environment.split(b"\0") or directory.is_relative_to(data):
            commands[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return commands


def write_color_dataset(root: Path, name: str = "colors", per_class: int = 40) -> None:
    """Writes a data set of two classes that are easy to distinguish: reddish and bluish noise."""
    rng = np.random.default_rng(0)
    for label, channel in (("blue", 2), ("red", 0)):
        folder = root / name / "train" / label
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            pixels[:, :, channel] += 180
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")


# Networks of a few channels gain nothing from a second thread. A trainer that a test waits for needs no low priority.
# Tests of the dashboard set its port themselves.
SMALL_MACHINE = {"KILN_THREADS": "1", "KILN_TRAINER_NICE": "0", "KILN_DASHBOARD_PORT": "0"}

SMALL = {"g_channels": [16, 8, 8], "d_channels": [8, 8, 16], "latent_dim": 8, "batch_size": 16}


def small_overrides(**more: Any) -> dict[str, Any]:
    """Overrides that make the preset `tiny` smaller, for tests that do not look at the images."""
    return SMALL | {"total_nimg": 640, "tick_nimg": 160, "snapshot_nimg": 320} | more


def _is_live(http: httpx2.Client) -> bool:
    try:
        return http.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False
