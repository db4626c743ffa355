"""The commands of `python -m services.trainer` besides `train`: their options, and what each calls.

torch is imported by the command that runs, after the signal handlers are in place.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from services.trainer.commands.terminal import describe
from shared.configs.classifier import resolve_classifier
from shared.configs.presets import parse_overrides
from shared.errors import InvalidInput, KilnError
from shared.jobs.record import new_job_id
from shared.jobs.trainer_messages import EXIT_LEFT, ProgressLine, StopSignal, TrainerLine
from shared.settings import Settings

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: Subparsers) -> None:
    """Adds every command; `options.call(settings, options)` runs the chosen one and returns the exit status."""
    for name, text, add_options, call in COMMANDS:
        parser = commands.add_parser(name, help=text)
        add_options(parser)
        parser.set_defaults(call=call)


def _train_classifier_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, help="channels of the first stage (64 is ResNet-18's)")
    parser.add_argument("--epochs", type=int, help="times that every image is shown")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="FIELD=VALUE", help="change a value")
    parser.add_argument("--dataset", default="cifar10", help="folder below KILN_DATASETS")
    parser.add_argument("--run", default=None, help="name of the run; the name of an old one resumes it")
    parser.add_argument("--out", type=Path, help="folder of its files; default: <KILN_DATA>/classifier")


def _train_classifier(settings: Settings, options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in ("width", "epochs") if getattr(options, name) is not None}
    config = resolve_classifier(parse_overrides(options.override) | given)
    run_id = run_name(options.run) if options.run else f"classifier-{new_job_id(datetime.now(UTC))}"
    should_stop = _on_stop_signals()
    from services.trainer.classifier.run import ClassifierSpec, train_classifier

    command = ("python", "-m", "services.trainer", *_repeated(options))
    spec = ClassifierSpec(run_id, config, options.dataset, options.out or settings.data / "classifier", command)
    try:
        manifest = train_classifier(spec, settings, _show, should_stop)
    except InvalidInput:
        raise
    except KilnError as error:
        _say(f"{type(error).__name__}: {error}")
        return 1
    if manifest is None:
        _say(f"left with a checkpoint; go on with --run {run_id}")
        return EXIT_LEFT
    print(f"{spec.folder}: {manifest.test_accuracy:.2%} of {manifest.test_images:,} test images")
    return 0


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a model's id, its folder, or weights/*.safetensors")
    parser.add_argument("-n", "--images", type=int, default=50_000, help="images to generate (default: 50,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of their latents and classes")
    parser.add_argument("--extractor", default="classifier", help="classifier (Kiln's own) or inception")
    parser.add_argument("--weights", type=Path, help="Inception's weights, a file")
    parser.add_argument("--dataset", default="cifar10", help="what snapshots were trained on; models say it themselves")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _evaluate(settings: Settings, options: argparse.Namespace) -> int:
    from services.trainer.commands.evaluate import Evaluation, evaluate, table

    asked = {name: value for name, value in vars(options).items() if name not in ("command", "call", "json", "models")}
    try:
        records = evaluate(Evaluation(models=tuple(options.models), **asked), settings, _say)
    except InvalidInput:
        raise
    except KilnError as error:
        _say(f"{type(error).__name__}: {error}")
        return 1
    print(json.dumps(records, indent=2) if options.json else table(records))
    return 0


def _repeated(options: argparse.Namespace) -> list[str]:
    """The options that decide the result, as they would be typed again."""
    numbers = [(f"--{name}", getattr(options, name)) for name in ("width", "epochs")]
    typed = [part for name, value in numbers if value is not None for part in (name, str(value))]
    typed += [part for pair in options.override for part in ("-o", pair)]
    return ["train-classifier", *typed, "--dataset", options.dataset]


def run_name(name: str) -> str:
    """The name, which becomes a part of keys and of a model's id. Raises InvalidInput for one that could not."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise InvalidInput.of("run", name, "a name is made of a-z, 0-9, '.', '_' and '-', up to 64 of them")
    return name


def _on_stop_signals() -> Callable[[], StopSignal | None]:
    """SIGTERM and SIGINT: checkpoint and leave. Says so once one has come."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)
    return lambda: "leave" if heard else None


def _show(line: TrainerLine) -> None:
    if not isinstance(line, ProgressLine):  # the rows have it all
        _say(describe(line, 0))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


COMMANDS = (
    ("train-classifier", "train the classifier that measures models", _train_classifier_options, _train_classifier),
    ("evaluate", "print the figures of models: FID, KID, Inception Score and others", _evaluate_options, _evaluate),
)
