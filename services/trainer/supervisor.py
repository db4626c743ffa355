"""One job from claim to end: starts the training process, keeps the lease, passes reports on, publishes the model.

No torch in here: a Celery worker must stay small, and CUDA cannot be initialised in a process that forks. The training
process has its own memory, its own process group, and dies with this one.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from pydantic import ValidationError

from shared import jobs
from shared.errors import CorruptArtifact, IllegalTransition, StaleFence, StoreUnavailable, UnknownJob, UnknownModel
from shared.job_store import JobStore
from shared.jobs import LOST_REASONS, Event, Job, JobStatus, Progress, Reason
from shared.registry import ModelRegistry, model_id_of
from shared.reports import (
    EXIT_LEFT,
    EventLine,
    FailureLine,
    MetricsLine,
    ProgressLine,
    ResultLine,
    TrainerLine,
    parse_line,
)
from shared.settings import Settings

log = logging.getLogger("kiln.supervisor")

HEARTBEAT_S = 0.5  # how often the store is told, and so the longest a cancel waits to be seen
LOG_TAIL_CHARS = 2000
TRAINER_SETTINGS = ("data", "datasets", "artifacts", "threads", "require_cuda")  # Redis is none of its business

T = TypeVar("T")


class Supervisor:
    """Runs claimed jobs, one at a time. `stop` is set when the worker is told to leave."""

    def __init__(self, store: JobStore, registry: ModelRegistry, settings: Settings, stop: threading.Event) -> None:
        self._store, self._registry, self._settings, self._stop = store, registry, settings, stop
        self._worker = f"{socket.gethostname()}-{os.getpid()}"

    def supervise(self, job_id: str) -> None:
        """Takes the job to its end, or hands it back. Does nothing when it is not to be had."""
        if self._stop.is_set():
            return  # the reaper sends it again, to a worker that stays
        try:
            job = self._store.update(job_id, partial(jobs.claim, worker=self._worker, lease_s=self._settings.lease_s))
        except (IllegalTransition, UnknownJob) as error:
            log.info("not taken: %s", error)
            return
        log.info("job %s: attempt %d, fence %d", job.id, job.attempt, job.fence)
        try:
            if self._finish_published(job):
                return
            _Attempt(job, self._store, self._registry, self._settings, self._stop).run()
        except StaleFence as error:
            log.warning("left to its new owner: %s", error)

    def _finish_published(self, job: Job) -> bool:
        """A worker that died between publishing and finishing left the model: nothing is to be trained again."""
        model_id = model_id_of(job.id, job.preset)
        try:
            self._registry.get(model_id)
        except (UnknownModel, CorruptArtifact):
            return False
        _finish(self._store, job, JobStatus.SUCCEEDED, model_id=model_id)
        return True


class _Attempt:
    """One training process and everything that is known of it."""

    def __init__(
        self, job: Job, store: JobStore, registry: ModelRegistry, settings: Settings, stop: threading.Event
    ) -> None:
        self.job, self.store, self.registry, self.settings, self.stop = job, store, registry, settings, stop
        self.progress: Progress | None = None
        self.pending: list[TrainerLine] = []  # reported and not yet in the store
        self.result: ResultLine | None = None
        self.failure: FailureLine | None = None
        self.told: signal.Signals | None = None
        self.kill_at_s = float("inf")
        self.log_path = settings.data / "work" / job.id / "trainer.log"

    def run(self) -> None:
        with self._start() as process:  # closes its pipes at the end
            try:
                self._follow(process)
            except BaseException:
                _kill(process)  # stale fence, or a bug: never leave a trainer behind that nobody watches
                raise
        self._conclude(process.returncode)

    def _start(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        told = {f"KILN_{name.upper()}": getattr(self.settings, name) for name in TRAINER_SETTINGS}
        environment = os.environ | {name: str(value) for name, value in told.items() if value is not None}
        with self.log_path.open("ab") as log_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer", "train", "--job", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, env=environment,
                start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        try:
            process.stdin.write(self.job.model_dump_json().encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; its exit status tells
        return process

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Until the trainer is gone and all it said is read: passes reports on, renews the lease, obeys requests."""
        lines: queue.Queue[TrainerLine | None] = queue.Queue()
        assert process.stdout is not None
        reader = threading.Thread(target=_read_lines, args=(process.stdout, lines, self.log_path), daemon=True)
        reader.start()
        next_beat_s = time.monotonic()
        is_open = True
        while is_open:
            try:
                line = lines.get(timeout=max(0.0, next_beat_s - time.monotonic()))
                is_open = line is not None
                self._take(line)
            except queue.Empty:
                pass
            if time.monotonic() >= next_beat_s:
                self._beat(process)
                next_beat_s = time.monotonic() + HEARTBEAT_S
        process.wait()
        reader.join()

    def _take(self, line: TrainerLine | None) -> None:
        match line:
            case ProgressLine():
                total = self.job.config.total_nimg
                self.progress = Progress.at(line.images_seen, total, line.images_per_second)
            case MetricsLine() | EventLine():
                self.pending.append(line)
            case ResultLine():
                self.result = line
            case FailureLine():
                self.failure = line

    def _beat(self, process: subprocess.Popen[bytes]) -> None:
        """Tells the store what is new, hears what the user wants, and sees that the trainer obeys."""
        try:
            self._flush()
        except StoreUnavailable as error:
            # Nobody can claim the job without the store either. Training goes on; what is pending waits.
            log.warning("job %s: %s", self.job.id, error)
        if self.stop.is_set() or self.job.request in ("cancel", "pause"):
            self._tell(process, signal.SIGTERM)
        elif self.job.request == "finish":
            self._tell(process, signal.SIGUSR1)
        if time.monotonic() >= self.kill_at_s:
            log.warning(
                "job %s: the trainer did not leave within %g s and is killed", self.job.id, self.settings.stop_grace_s
            )
            _kill(process)

    def _flush(self) -> None:
        metrics = [line.row for line in self.pending if isinstance(line, MetricsLine)]
        events = [line.event for line in self.pending if isinstance(line, EventLine)]
        self.job = self.store.update(
            self.job.id,
            partial(jobs.renew, fence=self.job.fence, lease_s=self.settings.lease_s, progress=self.progress,
                    metrics=metrics[-1] if metrics else None),
            metrics, events,
        )  # fmt: skip
        self.pending.clear()

    def _tell(self, process: subprocess.Popen[bytes], what: signal.Signals) -> None:
        if self.told is what or process.poll() is not None:
            return
        self.told = what
        process.send_signal(what)
        if what is signal.SIGTERM:
            self.kill_at_s = time.monotonic() + self.settings.stop_grace_s

    def _conclude(self, exit_code: int) -> None:
        """The trainer is gone: what becomes of the job."""
        self._patiently(self._flush)  # raises StaleFence when the job is somebody else's by now
        if self.result is not None:
            self._publish(self.result)
        elif self.failure is not None:
            status = JobStatus.LOST if self.failure.reason in LOST_REASONS else JobStatus.FAILED
            self._finish(status, reason=self.failure.reason, error=self.failure.error)
        elif self.job.request == "cancel":
            self._finish(JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)
        elif self.job.request == "pause":
            self._hand_back(JobStatus.PAUSED, "paused", "paused by the user; its checkpoint is kept")
        elif exit_code == EXIT_LEFT or self.told is signal.SIGTERM:
            self._hand_back(JobStatus.QUEUED, "handed_back", "the worker leaves; another one will go on")
        else:
            self._crashed(exit_code)

    def _publish(self, result: ResultLine) -> None:
        manifest = self.registry.publish(result.manifest, result.read_files())
        self._finish(JobStatus.SUCCEEDED, model_id=manifest.id)
        self._patiently(self.store.announce)

    def _crashed(self, exit_code: int) -> None:
        """The trainer vanished without a word: once more, unless that keeps happening."""
        how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"
        error = f"the training process ended with {how}; the end of its log: {_tail(self.log_path)}"
        crashes = self.job.crashes + 1
        if crashes >= self.settings.max_attempts:
            self._finish(JobStatus.LOST, reason=Reason.WORKER_LOST, error=f"{crashes} times: {error}")
        else:
            self._hand_back(JobStatus.QUEUED, "crashed", error, crashed=True)

    def _finish(
        self, status: JobStatus, *, reason: Reason | None = None, error: str | None = None, model_id: str | None = None
    ) -> None:
        self._patiently(lambda: _finish(self.store, self.job, status, reason=reason, error=error, model_id=model_id))

    def _hand_back(self, status: JobStatus, kind: str, message: str, *, crashed: bool = False) -> None:
        change = partial(jobs.hand_back, fence=self.job.fence, status=status, crashed=crashed)
        self._patiently(lambda: self.store.update(self.job.id, change, events=[Event(kind=kind, message=message)]))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Repeats a call to the store until it answers; gives up only when the worker itself has to leave."""
        while True:
            try:
                return call()
            except StoreUnavailable:
                if self.stop.wait(HEARTBEAT_S):
                    raise


def _finish(
    store: JobStore, job: Job, status: JobStatus, *,
    reason: Reason | None = None, error: str | None = None, model_id: str | None = None,
) -> Job:  # fmt: skip
    change = partial(jobs.finish, fence=job.fence, status=status, reason=reason, error=error, model_id=model_id)
    message = f"{status}: {error}" if error else f"{status}"
    return store.update(job.id, change, events=[Event(kind=str(status), message=message)])


def _read_lines(stream: IO[bytes], lines: queue.Queue[TrainerLine | None], log_path: Path) -> None:
    """Feeds the queue until the stream ends; None marks the end."""
    for text in stream:
        try:
            lines.put(parse_line(text))
        except ValidationError:
            # Half a line from a trainer that was killed while it wrote. It goes to the log, not to the job.
            with log_path.open("ab") as log_file:
                log_file.write(b"not a report: " + text + b"\n")
    lines.put(None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(path: Path) -> str:
    return path.read_bytes()[-LOG_TAIL_CHARS:].decode(errors="replace").strip() if path.exists() else ""
