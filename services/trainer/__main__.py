"""The command line of the trainer: `python -m services.trainer train | train-classifier | evaluate`.

Commands import torch only when they run, after their signal handlers are in place.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress

from services.trainer.commands import evaluate, rank, train, train_classifier
from shared.errors import InvalidInput
from shared.settings import read_settings

COMMANDS = (
    ("train", "train a preset and publish the model", train.add_options, train.train),
    (
        "train-classifier",
        "train the classifier that all metrics use",
        train_classifier.add_options,
        train_classifier.train_classifier,
    ),
    ("evaluate", "print the metrics of models: FID, KID, Inception Score, ...", evaluate.add_options, evaluate.run),
    ("rank", "train with another process (started by it)", rank.add_options, rank.rank),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit status; 2 for invalid values."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description="Train GANs on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text, add_options, call in COMMANDS:
        command = commands.add_parser(name, help=text)
        add_options(command)
        command.set_defaults(call=call)
    options = parser.parse_args(arguments)
    # OpenMP threads that wait for each other spin for milliseconds by default, which costs a multiple on a busy core;
    # no spinning costs a third on free cores: docs/explanation/performance.md.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"
    try:
        return int(options.call(read_settings(), options))
    except InvalidInput as error:
        for problem in error.problems:
            print(f"{problem.field}: {problem.message} (got {problem.value!r})", file=sys.stderr)
        return 2


if __name__ == "__main__":
    exit_code = main()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_code)  # an orderly exit of torch takes seconds, and the supervisor would wait for it
