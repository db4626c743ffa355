"""`python -m services.trainer train`: trains a preset from the command line, or a job under a supervisor.

From the command line, it prints text for people and publishes the model itself. With --job it reads a job from
standard input, writes one JSON message per line to standard output, and leaves publishing to its supervisor.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from services.trainer.commands.restart import restart_without_capture, warn_of_capture
from services.trainer.commands.run_name import check_run_name
from services.trainer.commands.signals import StopFlag
from services.trainer.training.errors import CaptureFailed
from shared.configs.classifier import ClassifierConfig
from shared.configs.generate import GenerateConfig
from shared.configs.overrides import parse_overrides
from shared.configs.presets import PRESETS, resolve
from shared.errors import DISK_FULL, BadDataset, TrainingFailed
from shared.jobs.record import Job, Reason, new_job_id
from shared.jobs.trainer_messages import (
    EXIT_LEFT,
    FailureLine,
    ResultLine,
    SendMessage,
    TrainerLine,
    event_sender,
)
from shared.processes import die_with_parent, lower_priority
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry

# RuntimeErrors without a class of their own: of CUDA, of torch's CPU allocator, of oneDNN. The last can have other
# causes in theory; no shape that a config allows triggers them.
_NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="tiny", help=f"one of {', '.join(PRESETS)} (default: tiny)")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="FIELD=VALUE", help="change a value")
    parser.add_argument("--dataset", default="cifar10", help="folder below KILN_DATASETS (default: cifar10)")
    parser.add_argument("--run", default=None, help="name of the run; an existing name resumes that run")
    parser.add_argument("--job", type=int, metavar="PARENT_PID", help="run the job described on standard input")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="write a trace of a few steps, for ui.perfetto.dev"
    )


def train(settings: Settings, options: argparse.Namespace) -> int:
    """Returns the exit status. Raises InvalidInput."""
    return _run_job(settings, options.job) if options.job else _run_by_hand(settings, options)


def _run_job(settings: Settings, parent_pid: int) -> int:
    die_with_parent(parent_pid)
    stop = StopFlag(signal.SIGTERM, signal.SIGUSR1)
    lower_priority(settings.trainer_nice)
    # Standard output carries messages only; whatever libraries print goes to the log.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    text = sys.stdin.read()
    job = Job.model_validate_json(text)

    def send(line: TrainerLine) -> None:
        channel.write(line.model_dump_json() + "\n")

    library = "onnxruntime" if isinstance(job.config, GenerateConfig) else "torch"

    event_sender(send)("starting", f"a training process has started and is loading {library}")
    try:
        return 0 if _train(job, settings, send, stop) else EXIT_LEFT
    except CaptureFailed as error:
        warn_of_capture(error, send)
        restart_without_capture(settings, sys.argv[1:], stop, standard_input=text, standard_output=channel)
    except Exception as error:
        message = str(error) if isinstance(error, TrainingFailed) else repr(error)
        reason = reason_of(error, has_checkpoint=_has_checkpoint(settings, job.id))
        send(FailureLine(reason=reason, error=message))
        with suppress(OSError):  # the log may be on the disk that is full
            traceback.print_exc()
        return 1


def _train(job: Job, settings: Settings, send: SendMessage, stop: StopFlag) -> bool:
    """Trains a GAN or a classifier, or generates a data set. False if a signal stopped it before the end."""
    if isinstance(job.config, GenerateConfig):
        from services.trainer.generation.run import run_job as generate

        return generate(job, settings, send, stop)
    if isinstance(job.config, ClassifierConfig):
        from services.trainer.classifier.run import run_job as train_classifier

        return train_classifier(job, settings, send, stop)
    from services.trainer.runs.run import run
    from services.trainer.runs.spec import RunSpec

    return run(RunSpec(job.id, job.preset, job.config, job.dataset, job.attempt), settings, send, stop)


def reason_of(error: Exception, *, has_checkpoint: bool = False) -> Reason:
    """The reason code of a job that ends with this error.

    Once a checkpoint exists, the data set was usable before: a problem with it is one of the environment.
    """
    if isinstance(error, BadDataset) and has_checkpoint:
        return Reason.ENVIRONMENT
    if isinstance(error, TrainingFailed):
        return Reason(error.reason)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return Reason.OUT_OF_MEMORY
    if isinstance(error, OSError):
        return Reason.DISK_FULL if error.errno in DISK_FULL else Reason.ENVIRONMENT
    return Reason.ERROR


def _has_checkpoint(settings: Settings, job_id: str) -> bool:
    try:
        return bool(ArtifactStore(settings.artifact_url).list(f"jobs/{job_id}/checkpoints"))
    except Exception:  # an object store raises types of its own; if it is unreachable, nothing is known to be lost
        return True


def _run_by_hand(settings: Settings, options: argparse.Namespace) -> int:
    config = resolve(options.preset, parse_overrides(options.override))
    run_id = check_run_name(options.run or new_job_id(datetime.now(UTC)))
    stop = StopFlag(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    from services.trainer.commands.display import make_display
    from services.trainer.runs.run import run
    from services.trainer.runs.spec import RunSpec

    show = make_display(sys.stderr, config.total_nimg)

    def send(line: TrainerLine) -> None:
        show(line)
        if isinstance(line, ResultLine):
            registry = ModelRegistry(ArtifactStore(settings.artifact_url))
            print(registry.publish(line.manifest, line.read_files()).id)

    try:
        if run(RunSpec(run_id, options.preset, config, options.dataset), settings, send, stop, options.profile):
            return 0
        print(f"stopped with a checkpoint; resume with --run {run_id}", file=sys.stderr)
        return EXIT_LEFT
    except CaptureFailed as error:
        warn_of_capture(error, send)
        restart_without_capture(settings, [*sys.argv[1:], "--run", run_id], stop)
    except TrainingFailed as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        return 1
