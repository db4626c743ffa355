"""The training process as a child of the supervisor: start, messages, signals and exit.

It has its own memory and process group, and dies with the worker.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import ValidationError

from shared.jobs.record import Job
from shared.jobs.trainer_messages import TrainerLine, parse_line
from shared.settings import Settings

LOG_TAIL_CHARS = 2000
# Passed to the trainer, which does not use Redis.
TRAINER_SETTINGS = (
    "data", "datasets", "artifacts", "classifier", "threads", "require_cuda", "fast_paths", "trainer_nice",
)  # fmt: skip
SIGNALS = {signal.SIGTERM, signal.SIGUSR1}
_VMSTAT = Path("/proc/vmstat")


class TrainerProcess:
    """One training process. `lines` yields its messages, then None at the end of the stream."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self.lines: queue.Queue[TrainerLine | None] = queue.Queue()
        self.sent_signal: signal.Signals | None = None
        self.log_path = settings.data / "work" / job.id / "trainer.log"
        self._oom_kills = count_oom_kills()
        self._process = self._start(job, settings)
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()  # a stale fence or a bug: never leave an unsupervised trainer behind
        self._process.wait()
        self._reader.join()

    @property
    def exit_code(self) -> int:
        return self._process.wait()

    def send_signal(self, number: signal.Signals) -> bool:
        """Sends the signal, unless it was the last one sent or the process has ended; returns whether it was sent."""
        if self.sent_signal is number or self._process.poll() is not None:
            return False
        self.sent_signal = number
        self._process.send_signal(number)
        return True

    def end(self, grace_s: float) -> None:
        """Waits for the process to exit after its last message; kills it after `grace_s` seconds."""
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kills the whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def was_killed_for_memory(self) -> bool:
        """Whether the kernel's out-of-memory killer ended it, according to the kernel's counter."""
        return self.exit_code == -signal.SIGKILL and count_oom_kills() > self._oom_kills

    def describe_end(self) -> str:
        code = self.exit_code
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the training process ended with {how}; the end of its log: {self._log_tail()}"

    def _start(self, job: Job, settings: Settings) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        passed = {f"KILN_{name.upper()}": getattr(settings, name) for name in TRAINER_SETTINGS}
        environment = os.environ | {name: str(value) for name, value in passed.items() if value is not None}
        # The child inherits the blocked signals; early ones stay pending until it has installed its handlers.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with self.log_path.open("ab") as log_file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "services.trainer", "train", "--job", str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, env=environment,
                    start_new_session=True,
                )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        with suppress(BrokenPipeError):  # it exited at once; its exit status says why
            _pipe(process.stdin).write(job.model_dump_json().encode())
            _pipe(process.stdin).close()
        return process

    def _read_lines(self) -> None:
        """Feeds the queue until the stream ends; None marks the end."""
        with _pipe(self._process.stdout) as stream:
            for text in stream:
                try:
                    self.lines.put(parse_line(text))
                except ValidationError:
                    self._log(b"not a message: " + text)
        self.lines.put(None)

    def _log(self, line: bytes) -> None:
        # A truncated line of a trainer that was killed while writing goes to the log. If the disk is full it is
        # dropped, because the messages that follow matter more.
        with suppress(OSError), self.log_path.open("ab") as log_file:
            log_file.write(line + b"\n")

    def _log_tail(self) -> str:
        try:
            return self.log_path.read_bytes()[-LOG_TAIL_CHARS:].decode(errors="replace").strip()
        except OSError as error:
            return f"({error})"


def count_oom_kills(vmstat: Path = _VMSTAT) -> int:
    """Processes that this machine's kernel has killed for lack of memory; 0 if the kernel has no such counter."""
    try:
        counters = dict(line.split() for line in vmstat.read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("the process was started without this pipe")
    return stream
