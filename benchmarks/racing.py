"""Processes that train in turns, in another order each round: what else the machine does falls on all of them."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from shared.configs.presets import resolve

WAITING = {"GOMP_SPINCOUNT": "10000"}  # what `python -m services.trainer` sets


class ContestantFailed(Exception):
    """Its process ended; the message is the last thing it said."""


@dataclass
class Contestant:
    """One way of training, in its process, and how many images per second it did in each round."""

    name: str
    task: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    iterations: int = 1
    first_s: float = 0.0  # the first iteration: what is compiled, recorded or chosen once is in it
    failure: str | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.contestant", json.dumps(self.task)]
        environment = {
            k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        } | self.environment
        self.said = tempfile.TemporaryFile("w+")  # as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.said.close()

    @property
    def nimg(self) -> int:
        config = resolve(self.task["preset"], self.task.get("overrides", {}))
        return config.n_critic * config.batch_size

    def start(self) -> None:
        self._answer()
        self.first_s = self.ask(1)
        self.iterations = 1

    def take_turn(self, turn_s: float, *, counts: bool) -> None:
        """Runs for about `turn_s`, by the speed of the turn before."""
        rate = self.iterations * self.nimg / self.ask(self.iterations)
        if counts:
            self.rates.append(rate)
        self.iterations = max(1, round(turn_s * rate / self.nimg))

    def ask(self, iterations: int) -> float:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{iterations}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.said.seek(0)
            last = self.said.read().strip().rpartition("\n")[2]
            raise ContestantFailed(f"status {status}: {last[:300]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def race(contestants: list[Contestant], rounds: int, turn_s: float) -> None:
    """Lets them take turns. The first iteration and one turn of each do not count: one warms up, one finds its length.

    One that fails leaves, says why in `failure`, and has no rates; the others go on.
    """
    running = list(contestants)
    with ExitStack() as stack:
        for contestant in contestants:
            stack.enter_context(contestant)
        for number in range(-2, rounds):
            random.Random(number).shuffle(running)
            for contestant in list(running):
                try:
                    contestant.start() if number == -2 else contestant.take_turn(turn_s, counts=number >= 0)
                except ContestantFailed as error:
                    contestant.failure, contestant.rates = str(error), []
                    running.remove(contestant)
                    print(f"  {contestant.name} failed: {error}", file=sys.stderr, flush=True)
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)


def ratios(fast: Contestant, slow: Contestant) -> list[float]:
    """How many times as fast, round by round, lowest first; empty when either failed."""
    if not fast.rates or not slow.rates:
        return []
    return sorted(a / b for a, b in zip(fast.rates, slow.rates, strict=True))


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
