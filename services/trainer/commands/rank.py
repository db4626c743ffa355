"""`python -m services.trainer rank`: a further process of a run on several devices; the first process starts it."""

from __future__ import annotations

import argparse
import signal
import sys

from shared.processes import die_with_parent
from shared.settings import Settings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rank", type=int, required=True, help="number of this process, from 1")
    parser.add_argument("--parent", type=int, required=True, help="process id of the first process")
    parser.add_argument("--meet", required=True, help="file through which the processes find each other")


def rank(settings: Settings, options: argparse.Namespace) -> int:
    """Reads the run from standard input and trains with the first process."""
    die_with_parent(options.parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the first process handles them for all
    from services.trainer.runs.rank import train_as_rank

    train_as_rank(sys.stdin.read(), options.rank, options.meet)
    return 0
