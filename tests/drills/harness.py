"""A stack of real processes for fault injection: redis-server, APIs, workers, and the workers' trainers.

Every part starts as `services.dev` starts it. `Kiln.reset` returns the stack to one process of each kind, so that
drills can share it. An undisturbed run of each config is trained once, and every disturbed run is compared with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import redis
from safetensors.numpy import load_file

from services.dev import API_COMMAND, WORKER_COMMAND, find_redis_server, free_port, redis_command, wait_for_redis
from shared.jobs import transitions
from shared.jobs.record import Event, Job, JobStatus
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.celery_app import TRAINING_QUEUE
from shared.sweeps import transitions as sweep_transitions
from shared.sweeps.store import RedisSweepStore
from tests.processes import ROOT, SMALL_MACHINE, small_overrides, wait_for, write_color_dataset

LEASE_S = 3.0
DEFAULTS = SMALL_MACHINE | {"KILN_LEASE_S": str(LEASE_S), "KILN_STOP_GRACE_S": "20", "KILN_MAX_ATTEMPTS": "3"}

P = TypeVar("P", bound="Part")

# Long enough for a fault in the middle, with a checkpoint every few dozen steps.
RUN = small_overrides(total_nimg=6400, tick_nimg=400, snapshot_nimg=3200, checkpoint_every_s=0.2)
ENDLESS = small_overrides(total_nimg=10**9, tick_nimg=10**8, snapshot_nimg=10**8, checkpoint_every_s=0.2)


class Part:
    """One process of the stack, in a session of its own, writing to a log."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name, self.command, self.environment = name, command, environment
        self.log_path = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=os.environ | self.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL and waits for the exit."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


class RedisServer(Part):
    """A redis-server with an append-only file, always on the same port and unix socket and in the same folder."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder / "redis"
        self.folder.mkdir()
        self.socket = self.folder / "redis.sock"
        command = [*redis_command(find_redis_server(), self.port, self.folder), "--unixsocket", str(self.socket)]
        super().__init__("redis", command, {}, folder)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        super().start()
        wait_for_redis(self.port, self.process)

    def shut_down(self) -> None:
        """Sends SIGTERM, after which Redis flushes its append-only file, and waits for the exit."""
        self.signal(signal.SIGTERM)
        self.process.wait()

    def execute(self, *command: str) -> Any:
        """The server's reply to a command."""
        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            return client.execute_command(*command)


class Worker(Part):
    def trainers(self) -> list[int]:
        """Pids of its training processes, including stopped ones."""
        return trainers(of_worker=self.pid)

    def trainer(self) -> int:
        """Waits for its training process."""
        return wait_for(self.trainers, bool)[0]

    def kill_tree(self) -> None:
        """Sends SIGKILL to the worker and its trainer, as when a container is killed."""
        self.signal(signal.SIGSTOP)  # so that it does not see its child die first
        for pid in self.trainers():
            os.kill(pid, signal.SIGKILL)
        self.kill()

    def shut_down(self) -> None:
        """Sends SIGTERM, as an orchestrator does, and waits for the exit."""
        self.signal(signal.SIGTERM)
        self.process.wait()


class Api(Part):
    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.port = free_port()
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        super().__init__(name, API_COMMAND, {**environment, "KILN_PORT": str(self.port)}, folder)

    def is_live(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    def wait(self) -> None:
        wait_for(lambda: (self.is_alive, self.is_live()), lambda seen: not seen[0] or seen[1])
        assert self.is_alive, self.log()

    def kill(self) -> None:
        super().kill()
        self.http.close()


@dataclass(frozen=True)
class Outcome:
    """The result of a run: SHA-256 of the exported generator and of all weights, and the metrics series."""

    generator: str
    weights: str
    metrics: tuple[tuple[tuple[str, float], ...], ...]


class Kiln:
    """The stack. Requests go to its first API."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.datasets = folder, folder / "data", folder / "datasets"
        self.data.mkdir()
        write_color_dataset(self.datasets)
        self.redis = RedisServer(folder)
        self.environment = DEFAULTS | {
            "KILN_DATA": str(self.data), "KILN_DATASETS": str(self.datasets), "KILN_REDIS_URL": self.redis.url,
        }  # fmt: skip
        self.store, self.sweeps = RedisJobStore(self.redis.url), RedisSweepStore(self.redis.url)
        self.workers: list[Worker] = []
        self.apis: list[Api] = []
        self._outcomes: dict[str, Outcome] = {}
        self._started = 0

    # The parts

    @property
    def worker(self) -> Worker:
        return self.workers[0]

    @property
    def api(self) -> Api:
        return self.apis[0]

    def settings(self, **more: Any) -> Settings:
        return Settings(data=self.data, datasets=self.datasets, redis_url=self.redis.url, lease_s=LEASE_S, **more)

    def start_worker(self, **environment: str) -> Worker:
        """Starts another worker."""
        self._started += 1
        worker = Worker(f"worker-{self._started}", WORKER_COMMAND, self.environment | environment, self.folder)
        self.workers.append(worker)
        return worker

    def start_api(self, **environment: str) -> Api:
        """Starts another replica; `Api.wait` waits until it responds."""
        self._started += 1
        api = Api(f"api-{self._started}", self.environment | environment, self.folder)
        self.apis.append(api)
        return api

    def replace_worker(self, **environment: str) -> Worker:
        """Kills the workers and starts one with other settings."""
        for worker in self.workers:
            worker.kill_tree()
        self.workers.clear()
        return self.start_worker(**environment)

    def replace_api(self, **environment: str) -> Api:
        for api in self.apis:
            api.kill()
        self.apis.clear()
        api = self.start_api(**environment)
        api.wait()
        return api

    def reset(self) -> None:
        """Returns to one Redis, one API and one worker with the default settings, and no unfinished job."""
        self.redis.signal(signal.SIGCONT)
        if not self.redis.is_alive:
            self.redis.start()
        self.apis = self._keep_one(self.apis)
        self.workers = self._keep_one(self.workers)
        if not self.apis:
            self.start_api()
        if not self.workers:
            self.start_worker()
        self.api.wait()
        self.end_all_jobs()

    def end_all_jobs(self) -> None:
        """Cancels all unfinished sweeps and jobs, and kills their trainers."""
        for sweep in self.sweeps.open():
            self.sweeps.update(sweep.id, sweep_transitions.cancel)
        for status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED):
            for job in self.store.list(status, limit=200).jobs:
                self.store.update(job.id, partial(transitions.request_action, request="cancel"))
        self.redis.execute("DEL", TRAINING_QUEUE)  # messages of ended jobs
        for pid in self.trainers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # instead of waiting for their last writes
        wait_for(lambda: self.store.list(JobStatus.RUNNING).jobs, lambda running: not running)

    def _keep_one(self, parts: list[P]) -> list[P]:
        """Keeps the first live part with the default settings; kills the others."""
        survivors: list[P] = []
        for part in parts:
            part.signal(signal.SIGCONT)
            own = {name: value for name, value in part.environment.items() if name != "KILN_PORT"}
            if part.is_alive and own == self.environment and not survivors:
                survivors.append(part)
            elif isinstance(part, Worker):
                part.kill_tree()
            else:
                part.kill()
        return survivors

    def kill_workers(self) -> None:
        for worker in self.workers:
            worker.kill_tree()
        self.workers = []

    def close(self) -> None:
        self.kill_workers()
        for api in self.apis:
            api.kill()
        self.redis.kill()
        self.store.close()
        self.sweeps.close()

    def trainers(self) -> list[int]:
        return [pid for worker in self.workers for pid in worker.trainers()]

    # Jobs

    def submit(self, overrides: Mapping[str, Any], dataset: str = "colors", **headers: str) -> str:
        body = {"preset": "tiny", "dataset": dataset, "overrides": overrides}
        answer = self.api.http.post("/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def request(self, job_id: str, action: str) -> httpx2.Response:
        """Posts `cancel`, `pause`, `resume` or `finish`."""
        return self.api.http.post(f"/jobs/{job_id}/{action}")

    def job(self, job_id: str) -> Job:
        return self.store.get(job_id)

    def wait(self, job_id: str, condition: Callable[[Job], bool]) -> Job:
        return wait_for(lambda: self.job(job_id), condition)

    def wait_for_status(self, job_id: str, status: str) -> Job:
        """Also returns if the job ends otherwise, so that the test can show its status."""
        return self.wait(job_id, lambda job: job.status == status or job.is_over)

    def wait_until_training(self, job_id: str, share: float = 0.0) -> Job:
        """Waits until the trainer has used more than this share of the budget."""
        return self.wait(job_id, lambda job: job.progress.fraction > share)

    def wait_for_crashes(self, job_id: str, count: int) -> Job:
        return self.wait(job_id, lambda job: job.crashes == count or job.is_over)

    def wait_for_attempt(self, job_id: str, number: int) -> Job:
        return self.wait(job_id, lambda job: (job.attempt == number and job.status == "running") or job.is_over)

    def wait_until_over(self, job_id: str) -> Job:
        return self.wait(job_id, lambda job: job.is_over)

    def events(self, job_id: str) -> list[str]:
        """Kinds of the job's events."""
        return [event.kind for event in self.store.events(job_id)]

    def wait_for_event(self, job_id: str, kind: str, containing: str = "") -> Event:
        """Fails if the job ends without such an event."""

        def look() -> tuple[bool, list[Event]]:
            is_over = self.job(job_id).is_over  # read before the events, which would otherwise miss the last one
            return is_over, [e for e in self.store.events(job_id) if e.kind == kind and containing in e.message]

        _, events = wait_for(look, lambda seen: seen[0] or bool(seen[1]))
        assert events, f"no event {kind} {containing}: {self.events(job_id)}"
        return events[0]

    def checkpoints(self, job_id: str) -> list[Path]:
        """The checkpoint files, oldest first, without unfinished ones, whose names begin with a dot."""
        folder = self.data / "artifacts" / "jobs" / job_id / "checkpoints"
        return sorted(path for path in folder.glob("*.ckpt") if not path.name.startswith("."))

    # Outcomes

    def outcome(self, job_id: str) -> Outcome:
        job = self.api.http.get(f"/jobs/{job_id}").json()
        assert job["status"] == "succeeded", job
        manifest = self.api.http.get(f"/models/{job['model_id']}").json()["manifest"]
        weights = self.data / "artifacts" / "jobs" / job_id / "weights"
        rows = self.api.http.get(f"/jobs/{job_id}/metrics").json()["data"]
        return Outcome(
            generator=manifest["files"]["generator.onnx"],
            weights=_digest_of_weights(max(weights.glob("*.safetensors"))),
            metrics=tuple(tuple(row.items()) for row in rows),
        )

    def undisturbed(self, overrides: Mapping[str, Any]) -> Outcome:
        """The outcome of an undisturbed run of the same config; computed once."""
        key = json.dumps(overrides, sort_keys=True)
        if key not in self._outcomes:
            job_id = self.submit(overrides)
            job = self.wait_until_over(job_id)
            assert (job.status, job.attempt, job.fence) == ("succeeded", 1, 1), job
            self._outcomes[key] = self.outcome(job_id)
        return self._outcomes[key]

    def assert_same_outcome(self, job_id: str, overrides: Mapping[str, Any]) -> None:
        """Checks that the job has the same weights, bit for bit, and the same metrics as an undisturbed one."""
        outcome, expected = self.outcome(job_id), self.undisturbed(overrides)
        positions = [dict(row)["nimg"] for row in outcome.metrics]
        assert positions == [dict(row)["nimg"] for row in expected.metrics], "the series has a gap or a repetition"
        assert outcome.metrics == expected.metrics
        assert (outcome.generator, outcome.weights) == (expected.generator, expected.weights)


def _digest_of_weights(path: Path) -> str:
    """Digest of names and values; the order of metadata in the file's header varies."""
    tensors = load_file(path)
    return hashlib.sha256(b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))).hexdigest()


def trainers(of_worker: int | None = None) -> list[int]:
    """Pids of training processes with this parent, from /proc, without zombies."""
    pids = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if b"services.trainer" in command and command[-2:-1] == [str(of_worker).encode()]:
                pids.append(int(folder.name))
    return pids


def state_of(pid: int) -> str:
    """R, S, D, T (stopped) or Z; "" if the process does not exist."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""
    state = re.search(r"^State:\s+(\w)", status, re.MULTILINE)
    return state[1] if state else ""


def is_gone(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Suspends the process with SIGSTOP until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
