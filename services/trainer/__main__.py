"""The training process: `python -m services.trainer train --preset tiny`, by hand or under a supervisor.

By hand it prints for people and publishes the model itself. With --job it reads a job from standard input, writes one
JSON report per line to standard output, and leaves publishing to the supervisor that started it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from services.trainer.commands.classifier import add_commands, run_name
from shared.configs.presets import PRESETS, TrainConfig, parse_overrides, resolve
from shared.errors import DISK_FULL, InvalidInput, TrainingFailed
from shared.jobs.record import Event, Job, Reason, new_job_id
from shared.jobs.trainer_messages import EXIT_LEFT, EventLine, FailureLine, ResultLine, StopSignal, TrainerLine
from shared.processes import die_with_parent, lower_priority
from shared.settings import Settings, read_settings

# RuntimeErrors without a class of their own: of CUDA, of torch's CPU allocator, of oneDNN. The last has other causes in
# theory; shapes that a config lets through have none.
_NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description="Train a GAN on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a preset and publish the model")
    train.add_argument("--preset", default="tiny", help=f"one of {', '.join(PRESETS)}")
    train.add_argument("-o", "--override", action="append", default=[], metavar="FIELD=VALUE", help="change a value")
    train.add_argument("--dataset", default="cifar10", help="folder below KILN_DATASETS")
    train.add_argument("--run", default=None, help="name of the run; the name of an old one resumes it")
    train.add_argument("--job", type=int, metavar="PARENT_PID", help="run the job that standard input describes")
    train.add_argument("--profile", type=Path, metavar="FILE", help="write a trace of a few steps, for ui.perfetto.dev")
    rank = commands.add_parser("rank", help="train along with another process, which starts this one")
    for name, kind in (("--rank", int), ("--parent", int), ("--meet", str)):
        rank.add_argument(name, type=kind, required=True)
    add_commands(commands)
    options = parser.parse_args(arguments)
    # Threads that wait for each other spin. By default they do so for milliseconds, and then a busy core costs a
    # multiple; not to spin at all costs a third where the cores are free: docs/explanation/performance.md.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"
    try:
        settings = read_settings()
        if options.command == "rank":
            return _run_rank(options)
        if options.command != "train":
            return int(options.call(settings, options))
        return _run_job(settings, options.job) if options.job else _run_by_hand(settings, options)
    except InvalidInput as error:
        for problem in error.problems:
            print(f"{problem.field}: {problem.message} (got {problem.value!r})", file=sys.stderr)
        return 2


class StopFlag:
    """SIGTERM: checkpoint and leave. SIGUSR1: stop now, keep the model so far. SIGTERM wins."""

    def __init__(self) -> None:
        self.value: StopSignal | None = None
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_signal)
        # The supervisor starts this process with both blocked, so that none meets it before it has its handlers.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM or self.value is None:
            self.value = "leave" if number == signal.SIGTERM else "finish"


def _run_rank(options: argparse.Namespace) -> int:
    die_with_parent(options.parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the first process hears them, for all
    from services.trainer.runs.run import follow

    follow(sys.stdin.read(), options.rank, options.meet)
    return 0


def _run_job(settings: Settings, parent_pid: int) -> int:
    die_with_parent(parent_pid)
    stop = StopFlag()
    lower_priority(settings.trainer_nice)
    # Standard output is the channel; what a library prints goes to the log with the rest.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = Job.model_validate_json(sys.stdin.read())

    def emit(line: TrainerLine) -> None:
        channel.write(line.model_dump_json() + "\n")

    emit(EventLine(event=Event(kind="starting", message="a training process has started; it loads torch")))
    try:
        return 0 if _train(job, settings, emit, lambda: stop.value) else EXIT_LEFT
    except Exception as error:
        reason = _reason_of(error)
        emit(FailureLine(reason=reason, error=str(error) if isinstance(error, TrainingFailed) else repr(error)))
        with suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        return 1


def _train(
    job: Job, settings: Settings, emit: Callable[[TrainerLine], None], should_stop: Callable[[], StopSignal | None]
) -> bool:
    """What the job's kind asks for. False when it was told to leave before the end."""
    if not isinstance(job.config, TrainConfig):
        from services.trainer.classifier.run import run_job

        return run_job(job, settings, emit, should_stop)
    from services.trainer.runs.run import RunSpec, run

    return run(RunSpec(job.id, job.preset, job.config, job.dataset, job.attempt), settings, emit, should_stop)


def _reason_of(error: Exception) -> Reason:
    if isinstance(error, TrainingFailed):
        return Reason(error.reason)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return Reason.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return Reason.DISK_FULL
    return Reason.ERROR


def _run_by_hand(settings: Settings, options: argparse.Namespace) -> int:
    config = resolve(options.preset, parse_overrides(options.override))
    run_id = run_name(options.run or new_job_id(datetime.now(UTC)))
    stop = StopFlag()
    signal.signal(signal.SIGINT, lambda number, frame: stop._on_signal(signal.SIGTERM, frame))
    from services.trainer.commands.terminal import make_display
    from services.trainer.runs.run import RunSpec, run
    from shared.storage.artifacts import ArtifactStore
    from shared.storage.model_registry import ModelRegistry

    show = make_display(sys.stderr, config.total_nimg)

    def emit(line: TrainerLine) -> None:
        show(line)
        if isinstance(line, ResultLine):
            registry = ModelRegistry(ArtifactStore(settings.artifact_url))
            print(registry.publish(line.manifest, line.read_files()).id)

    spec = RunSpec(run_id, options.preset, config, options.dataset)
    try:
        if run(spec, settings, emit, lambda: stop.value, options.profile):
            return 0
        print(f"left with a checkpoint; go on with --run {spec.run_id}", file=sys.stderr)
        return EXIT_LEFT
    except TrainingFailed as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    exit_code = main()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)  # taking torch down in order takes seconds, for which a supervisor would have to wait
