"""Runs one job from claim to end: starts the training process, renews the lease, stores its messages, publishes.

Imports no torch: a Celery worker must stay small, and CUDA cannot be initialised in a process that forks.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from services.trainer.worker.trainer_process import TrainerProcess
from shared.errors import (
    DISK_FULL,
    CorruptArtifact,
    IllegalTransition,
    StaleFence,
    StoreUnavailable,
    UnknownJob,
    UnknownModel,
)
from shared.jobs import transitions
from shared.jobs.record import LOST_REASONS, Event, Job, JobStatus, Progress, Reason
from shared.jobs.store import Change, JobStore, Metrics
from shared.jobs.trainer_messages import (
    EXIT_LEFT,
    ClassifierLine,
    DatasetLine,
    EventLine,
    FailureLine,
    MetricsLine,
    ProgressLine,
    ResultLine,
    TrainerLine,
)
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.classifier_files import MANIFEST_FILE, classifier_key
from shared.storage.generated_datasets import GeneratedDatasets
from shared.storage.model_registry import ModelRegistry, model_id_of

log = logging.getLogger("kiln.supervisor")

CANDIDATES = 10  # waiting jobs to try, because other workers claim them too
HEARTBEAT_S = 0.5  # between two writes to the store; also the longest delay of a cancel

T = TypeVar("T")


class Supervisor:
    """Claims and runs jobs, one at a time. `stop` is set when the worker shuts down."""

    def __init__(self, store: JobStore, registry: ModelRegistry, settings: Settings, stop: threading.Event) -> None:
        self._store, self._registry, self._settings, self._stop = store, registry, settings, stop
        self._worker = f"{socket.gethostname()}-{os.getpid()}"

    def supervise(self, job_id: str) -> None:
        """Runs the job to its end, or releases it. If it cannot be claimed, runs the job that has waited longest."""
        if self._stop.is_set():
            return  # the reaper enqueues the job again
        job = self._claim(job_id) or self._claim_oldest()
        if job is None:
            return
        log.info("job %s: attempt %d, fence %d", job.id, job.attempt, job.fence)
        attempt = Attempt(job, self._store, self._registry, self._settings, self._stop)
        try:
            if self._is_published(job):
                # A worker died between publishing and finishing. The model exists, so it is not trained again.
                attempt.finish(JobStatus.SUCCEEDED, model_id=model_id_of(job.id, job.preset))
            else:
                attempt.run()
        except StaleFence as error:
            log.warning("another worker owns the job: %s", error)

    def _claim(self, job_id: str) -> Job | None:
        claim = partial(transitions.claim, worker=self._worker, lease_s=self._settings.lease_s)
        token = secrets.token_hex(8)
        try:
            return retry_while_unavailable(lambda: self._store.update(job_id, claim, token=token), self._stop)
        except (IllegalTransition, UnknownJob) as error:
            log.info("not claimed: %s", error)
            return None

    def _claim_oldest(self) -> Job | None:
        """Claims the oldest waiting job: a queue message only wakes the worker, and may belong to a cancelled job."""
        waiting = retry_while_unavailable(lambda: self._store.waiting(limit=CANDIDATES), self._stop)
        return next((job for candidate in waiting if (job := self._claim(candidate.id))), None)

    def _is_published(self, job: Job) -> bool:
        try:
            self._registry.get(model_id_of(job.id, job.preset))
        except (UnknownModel, CorruptArtifact):
            return False
        return True


class Attempt:
    """One claim of a job, and the state of its training process."""

    def __init__(
        self, job: Job, store: JobStore, registry: ModelRegistry, settings: Settings, stop: threading.Event
    ) -> None:
        self.job, self.store, self.registry, self.settings, self.stop = job, store, registry, settings, stop
        self.progress: Progress | None = None
        self.series: dict[float, Metrics] = {}  # every metrics row, in case the store loses them
        self.pending: list[TrainerLine] = []  # received and not yet stored
        self.pending_token = secrets.token_hex(8)
        self.result: ResultLine | ClassifierLine | DatasetLine | None = None
        self.failure: FailureLine | None = None
        self.kill_at_s = self.stalled_at_s = float("inf")
        self.is_stalled = self.is_timed_out = False

    def run(self) -> None:
        try:
            with TrainerProcess(self.job, self.settings) as process:
                self._supervise(process)
                self._while_renewing(partial(process.end, self.settings.stop_grace_s))
            retry_while_unavailable(self._flush, self.stop)  # raises StaleFence if another worker owns the job by now
            self._conclude(process)
        except OSError as error:  # the process or its log file cannot be created, or the model cannot be written
            self._give_up_or_retry(Reason.DISK_FULL if error.errno in DISK_FULL else Reason.WORKER_LOST, repr(error))

    def _supervise(self, process: TrainerProcess) -> None:
        """Stores messages, renews the lease and forwards user requests until the trainer has ended."""
        next_beat_s = time.monotonic()
        self.stalled_at_s = next_beat_s + self.settings.stall_s
        is_open = True
        while is_open:
            try:
                line = process.lines.get(timeout=max(0.0, next_beat_s - time.monotonic()))
                is_open = line is not None
                self._receive(line)
                self.stalled_at_s = time.monotonic() + self.settings.stall_s
            except queue.Empty:
                pass
            if (now_s := time.monotonic()) >= next_beat_s:
                if now_s - next_beat_s > self.settings.stall_s / 2:
                    self.stalled_at_s = now_s + self.settings.stall_s  # this process itself was suspended
                self._beat(process)
                next_beat_s = time.monotonic() + HEARTBEAT_S

    def _receive(self, line: TrainerLine | None) -> None:
        match line:
            case ProgressLine():
                total = line.images_total or self.job.progress.images_total
                details = line.model_dump(include={"fraction", "eta_seconds", "step_shares", "device_memory_bytes"})
                self.progress = Progress.at(line.images_seen, total, line.images_per_second, **details)
            case MetricsLine():
                self.series[line.row["nimg"]] = line.row
                self.pending.append(line)
            case EventLine():
                self.pending.append(line)
            case ResultLine() | ClassifierLine() | DatasetLine():
                self.result = line
            case FailureLine():
                self.failure = line

    def _beat(self, process: TrainerProcess) -> None:
        """Stores pending messages, forwards the user's request, and kills a trainer that does not respond."""
        self._try_to_flush()
        limit_s = self.settings.job_timeout_s
        self.is_timed_out = limit_s is not None and self.job.trained_s > limit_s
        now_s = time.monotonic()
        if self.stop.is_set() or self.is_timed_out or self.job.request in ("cancel", "pause"):
            if process.send_signal(signal.SIGTERM):
                self.kill_at_s = now_s + self.settings.stop_grace_s
                self._announce_stop("save a checkpoint and exit")
        elif self.job.request == "finish" and process.send_signal(signal.SIGUSR1):
            self._announce_stop("stop and publish the result so far")
        if now_s >= self.kill_at_s:
            log.warning("job %s: the trainer did not exit within %g s", self.job.id, self.settings.stop_grace_s)
            process.kill()
        elif now_s >= self.stalled_at_s:
            self.is_stalled = True
            log.warning("job %s: the trainer sent nothing for %g s", self.job.id, self.settings.stall_s)
            process.kill()

    def _while_renewing(self, call: Callable[[], T]) -> T:
        """Runs a call that may take longer than the lease, and renews the lease meanwhile. Raises StaleFence."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            while not wait({future}, HEARTBEAT_S).done:
                self._try_to_flush()
            return future.result()

    def _announce_stop(self, action: str) -> None:
        cause = self.job.request or ("worker shutdown" if self.stop.is_set() else "KILN_JOB_TIMEOUT_S")
        self.pending.append(EventLine(event=Event(kind="stopping", message=f"the trainer will {action}: {cause}")))
        self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self._flush()
        except StoreUnavailable as error:
            # No other worker can claim the job without the store. Training continues, and messages stay pending.
            log.warning("job %s: %s", self.job.id, error)

    def _flush(self) -> None:
        metrics = [line.row for line in self.pending if isinstance(line, MetricsLine)]
        events = [line.event for line in self.pending if isinstance(line, EventLine)]
        renew = partial(
            transitions.renew, fence=self.job.fence, lease_s=self.settings.lease_s, progress=self.progress,
            metrics=metrics[-1] if metrics else None,
        )  # fmt: skip
        self.job = self._update(renew, metrics, events, self.pending_token)
        self.pending.clear()
        self.pending_token = secrets.token_hex(8)

    def _conclude(self, process: TrainerProcess) -> None:
        """Decides the outcome of the job after its trainer has ended."""
        if self.job.request == "cancel":
            self.finish(JobStatus.CANCELLED, reason=Reason.CANCELLED_BY_USER)
        elif self.result is not None:
            self._publish(self.result)
        elif self.failure is not None:
            status = JobStatus.LOST if self.failure.reason in LOST_REASONS else JobStatus.FAILED
            self.finish(status, reason=self.failure.reason, error=self.failure.error)
        elif self.is_timed_out:
            error = f"trained longer than KILN_JOB_TIMEOUT_S={self.settings.job_timeout_s:g}; its checkpoint is kept"
            self.finish(JobStatus.FAILED, reason=Reason.TIMEOUT, error=error)
        elif self.job.request == "pause":
            self._release(JobStatus.PAUSED, "paused", "paused by the user; its checkpoint is kept")
        elif process.exit_code == EXIT_LEFT or process.sent_signal is signal.SIGTERM:
            self._release(JobStatus.QUEUED, "handed_back", "the worker shuts down; another one will resume the job")
        elif self.is_stalled:
            self._retry(Reason.STALLED, f"the trainer sent nothing for KILN_STALL_S={self.settings.stall_s:g} s")
        else:
            reason = Reason.OUT_OF_MEMORY if process.was_killed_for_memory() else Reason.WORKER_LOST
            self._retry(reason, process.describe_end())

    def _publish(self, result: ResultLine | ClassifierLine | DatasetLine) -> None:
        if not isinstance(result, ResultLine):
            self._while_renewing(lambda: publish_files(self.job.id, result, self.settings))
            self.finish(JobStatus.SUCCEEDED)
            return
        manifest = self._while_renewing(lambda: self.registry.publish(result.manifest, result.read_files()))
        self.finish(JobStatus.SUCCEEDED, model_id=manifest.id)
        retry_while_unavailable(self.store.announce, self.stop)

    def _give_up_or_retry(self, reason: Reason, error: str) -> None:
        if reason is Reason.DISK_FULL:
            self.finish(JobStatus.LOST, reason=reason, error=error)
        else:
            self._retry(reason, error)

    def _retry(self, reason: Reason, error: str) -> None:
        """Queues the job again after its trainer crashed, up to `max_attempts` times."""
        crashes = self.job.crashes + 1
        if crashes >= self.settings.max_attempts:
            self.finish(JobStatus.LOST, reason=reason, error=f"{crashes} times: {error}")
        else:
            self._release(JobStatus.QUEUED, "crashed", error, crashed=True)

    def finish(
        self, status: JobStatus, *, reason: Reason | None = None, error: str | None = None, model_id: str | None = None
    ) -> None:
        """Ends the job. Raises StaleFence."""
        change = partial(
            transitions.finish, fence=self.job.fence, status=status, reason=reason, error=error, model_id=model_id
        )
        self._end(change, Event(kind=str(status), message=f"{status}: {error}" if error else f"{status}"))

    def _release(self, status: JobStatus, kind: str, message: str, *, crashed: bool = False) -> None:
        change = partial(transitions.release, fence=self.job.fence, status=status, crashed=crashed)
        self._end(change, Event(kind=kind, message=message))

    def _end(self, change: Change, event: Event) -> None:
        token = secrets.token_hex(8)
        cancelled = Event(kind="cancelled", message="cancelled")

        def events(after: Job) -> list[Event]:
            # A cancel that arrives at the last moment changes the outcome and so the event.
            return [cancelled if after.status is JobStatus.CANCELLED else event]

        retry_while_unavailable(lambda: self._update(change, (), events, token), self.stop)

    def _update(
        self, change: Change, metrics: list[Metrics] | tuple[()], events: list[Event] | Callable[[Job], list[Event]],
        token: str,
    ) -> Job:  # fmt: skip
        try:
            return self.store.update(self.job.id, change, metrics, events, token)
        except UnknownJob:
            # Redis restarted empty. This process has the job's record and metrics.
            rebuilt = Event(kind="rebuilt", message="the job store had lost this job; its worker restored it")
            self.store.restore(self.job, list(self.series.values()), [rebuilt])
            log.warning("job %s: the store had lost it; restored", self.job.id)
            return self.store.update(self.job.id, change, metrics, events, token)


def publish_files(job_id: str, line: ClassifierLine | DatasetLine, settings: Settings) -> None:
    """Writes what a job made to the artifact store; the manifest last, because it makes the result exist."""
    artifacts = ArtifactStore(settings.artifact_url)
    if isinstance(line, DatasetLine):
        GeneratedDatasets(artifacts).write_manifest(job_id, line.manifest)
        return
    folder = Path(line.folder)
    for name in (*line.manifest.files, MANIFEST_FILE):
        artifacts.write(classifier_key(job_id, name), (folder / name).read_bytes())


def retry_while_unavailable(call: Callable[[], T], stop: threading.Event) -> T:
    """Repeats a call while the store is unavailable; raises StoreUnavailable only when the worker shuts down."""
    while True:
        try:
            return call()
        except StoreUnavailable:
            if stop.wait(HEARTBEAT_S):
                raise
