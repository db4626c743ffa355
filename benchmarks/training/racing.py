"""Runs training processes in turns, in another order each round, so that other load on the machine affects all."""

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

SHIPPED_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}  # as `python -m services.trainer` sets


class ContestantFailed(Exception):
    """A contestant's process ended; the message is the last line of its standard error."""


@dataclass
class Contestant:
    """One implementation in its own process, and its images per second in each round."""

    name: str
    task: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    iterations: int = 1
    first_s: float = 0.0  # seconds of the first iteration, with compilation, graph capture and algorithm search
    failure: str | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.training.contestant", json.dumps(self.task)]
        environment = {
            k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        } | self.environment
        self.stderr = tempfile.TemporaryFile("w+")  # closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.stderr.close()

    @property
    def nimg(self) -> int:
        """Images per iteration."""
        config = resolve(self.task["preset"], self.task.get("overrides", {}))
        return config.n_critic * config.real_batch_size

    def start(self) -> None:
        self._read_response()
        self.first_s = self.iterate(1)
        self.iterations = 1

    def take_turn(self, turn_s: float, *, counts: bool) -> None:
        """Trains for about `turn_s` seconds; the speed of the previous turn gives the number of iterations."""
        rate = self.iterations * self.nimg / self.iterate(self.iterations)
        if counts:
            self.rates.append(rate)
        self.iterations = max(1, round(turn_s * rate / self.nimg))

    def iterate(self, iterations: int) -> float:
        """Takes that many iterations. -> seconds. Raises ContestantFailed."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{iterations}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; reading its response raises ContestantFailed
        return float(self._read_response()["seconds"])

    def _read_response(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.stderr.seek(0)
            last_line = self.stderr.read().strip().rpartition("\n")[2]
            raise ContestantFailed(f"status {status}: {last_line[:300]}")
        response: dict[str, Any] = json.loads(line)
        return response


def race(contestants: list[Contestant], rounds: int, turn_s: float) -> None:
    """Runs all contestants in turns.

    Two warm-ups of each do not count: its first iteration, and one turn that finds the number of iterations.
    A contestant that fails is left out of the further rounds; it has a `failure` and no rates.
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
    """The speed of `fast` divided by that of `slow` in each round, sorted; empty if either failed."""
    if not fast.rates or not slow.rates:
        return []
    return sorted(a / b for a, b in zip(fast.rates, slow.rates, strict=True))


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
