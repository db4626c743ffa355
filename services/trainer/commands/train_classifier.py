"""`python -m services.trainer train-classifier`: trains the classifier that all metrics use."""

from __future__ import annotations

import argparse
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from services.trainer.commands.display import describe
from services.trainer.commands.run_name import check_run_name
from services.trainer.commands.signals import StopFlag
from shared.configs.classifier import resolve_classifier
from shared.configs.overrides import parse_overrides
from shared.errors import InvalidInput, KilnError
from shared.jobs.record import new_job_id
from shared.jobs.trainer_messages import EXIT_LEFT, ProgressLine, TrainerLine
from shared.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, help="channels of the first block (default: 64)")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="FIELD=VALUE", help="change a value")
    parser.add_argument("--dataset", default="cifar10", help="folder below KILN_DATASETS (default: cifar10)")
    parser.add_argument("--run", default=None, help="name of the run; an existing name resumes that run")
    parser.add_argument("--out", type=Path, help="output folder (default: <KILN_DATA>/classifier)")


def train_classifier(settings: Settings, options: argparse.Namespace) -> int:
    """Returns the exit status. Raises InvalidInput."""
    named = {name: getattr(options, name) for name in ("width", "epochs") if getattr(options, name) is not None}
    config = resolve_classifier(parse_overrides(options.override) | named)
    run_id = check_run_name(options.run) if options.run else f"classifier-{new_job_id(datetime.now(UTC))}"
    stop = StopFlag(signal.SIGTERM, signal.SIGINT)
    from services.trainer.classifier import run

    command = ("python", "-m", "services.trainer", *_command(options))
    spec = run.ClassifierSpec(run_id, config, options.dataset, options.out or settings.data / "classifier", command)
    try:
        manifest = run.train_classifier(spec, settings, _show, stop)
    except InvalidInput:
        raise
    except KilnError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if manifest is None:
        print(f"stopped with a checkpoint; resume with --run {run_id}", file=sys.stderr)
        return EXIT_LEFT
    print(f"{spec.folder}: {manifest.test_accuracy:.2%} of {manifest.test_images:,} test images")
    return 0


def _command(options: argparse.Namespace) -> list[str]:
    """The command line that repeats this training."""
    numbers = [(f"--{name}", getattr(options, name)) for name in ("width", "epochs")]
    words = [part for name, value in numbers if value is not None for part in (name, str(value))]
    words += [part for pair in options.override for part in ("-o", pair)]
    return ["train-classifier", *words, "--dataset", options.dataset]


def _show(line: TrainerLine) -> None:
    if not isinstance(line, ProgressLine):  # the metrics rows hold the same figures
        print(describe(line, 0), file=sys.stderr, flush=True)
