"""How fast training is, against the plain PyTorch way, interleaved in one run: `make bench-training`.

    python -m benchmarks.training [--rounds 5] [--turn-s 10] [--peer CHECKOUT] [--parts ...] [--out FILE]

Every way of training has a process of its own; they take turns, in another order each round, and a figure is the median
over the rounds. Ratios are taken within a round, so that what else the machine does falls on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.arithmetic import flops_per_image, matmul_flops_per_second
from shared.presets import PRESETS, resolve

CPU_ABLATION = ("winograd", "lean", "channels_last", "fused", "foreach")
CUDA_ABLATION = ("capture", "lean", "channels_last", "fused", "foreach")
WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE"}  # what `python -m services.trainer` sets


@dataclass
class Contestant:
    """One way of training, in its process, and how many images per second it did in each round."""

    name: str
    task: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    iterations: int = 1

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.contestant", json.dumps(self.task)]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | self.environment
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def nimg(self) -> int:
        config = resolve(self.task["preset"], self.task.get("overrides", {}))
        return config.n_critic * config.batch_size

    def take_turn(self, turn_s: float, *, counts: bool = True) -> None:
        """Runs for about `turn_s`, by the speed of the turn before."""
        seconds = self.ask(self.iterations)
        rate = self.iterations * self.nimg / seconds
        if counts:
            self.rates.append(rate)
        self.iterations = max(1, round(turn_s * rate / self.nimg))

    def ask(self, iterations: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def race(contestants: list[Contestant], rounds: int, turn_s: float) -> None:
    """Lets them take turns. Two turns of each do not count: one warms up, one finds its length."""
    order = list(contestants)
    with ExitStack() as stack:
        for contestant in contestants:
            stack.enter_context(contestant)
        for number in range(-2, rounds):
            random.Random(number).shuffle(order)
            for contestant in order:
                contestant.take_turn(turn_s, counts=number >= 0)
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)


def ratio(fast: Contestant, slow: Contestant) -> float:
    return statistics.median(a / b for a, b in zip(fast.rates, slow.rates, strict=True))


def compare_presets(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Kiln against the plain way, preset by preset."""
    rows = []
    for preset in options.presets:
        base = {"preset": preset, "threads": options.threads}
        kiln = Contestant("Kiln", base | {"way": "kiln"}, WAIT_POLICY)
        plain = Contestant("plain PyTorch", base | {"way": "plain"})
        race([kiln, plain], options.rounds, options.turn_s)
        rows.append(_row(preset, kiln, plain))
        print(f"  {preset}: {rows[-1]['ratio']:.2f}", file=sys.stderr, flush=True)
        rows[-1] |= {"flops_per_image": flops_per_image(resolve(preset, {}))}
    if options.peer:
        base = {"preset": "wgan-gp", "threads": options.threads, "path": str(options.peer)}
        kiln = Contestant("Kiln", base | {"way": "kiln"}, WAIT_POLICY)
        peer = Contestant("peer", base | {"way": "peer"})
        race([kiln, peer], options.rounds, options.turn_s)
        rows.append(_row("pytorch-gan-collections' CNN, WGAN-GP", kiln, peer))
    return rows


def _row(what: str, kiln: Contestant, other: Contestant) -> dict[str, Any]:
    spread = sorted(a / b for a, b in zip(kiln.rates, other.rates, strict=True))
    return {
        "what": what, "kiln": statistics.median(kiln.rates), "other": statistics.median(other.rates),
        "ratio": ratio(kiln, other), "lowest": spread[0], "highest": spread[-1],
    }  # fmt: skip


def ablate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each measure brings: everything, and everything but it; and the loader, by itself."""
    rows = []
    names = CUDA_ABLATION if torch.cuda.is_available() else CPU_ABLATION
    for preset in options.presets:
        base = {"preset": preset, "threads": options.threads}
        whole = Contestant("all", base | {"way": "kiln"}, WAIT_POLICY)
        others = [Contestant(n, base | {"way": "kiln", "paths": {n: False}}, WAIT_POLICY) for n in names]
        others.append(Contestant("waiting threads sleep", base | {"way": "kiln"}))
        compiled = Contestant("compile", base | {"way": "kiln", "paths": {"compile": True}}, WAIT_POLICY)
        reference = Contestant("reference", base | {"way": "reference"})
        plain = Contestant("plain", base | {"way": "plain"})
        try:
            race([whole, *others, compiled, reference, plain], options.rounds, options.turn_s)
        except RuntimeError as error:  # no compiler on this machine; all the rest is still worth measuring
            print(f"  without compile: {error}", file=sys.stderr)
            compiled.rates = []
            for contestant in (whole, *others, reference, plain):
                contestant.rates, contestant.iterations = [], 1
            race([whole, *others, reference, plain], options.rounds, options.turn_s)
        rows += [{"preset": preset, "measure": other.name, "ratio": ratio(whole, other)} for other in others]
        if compiled.rates:
            rows.append({"preset": preset, "measure": "compile (off by default)", "ratio": ratio(compiled, whole)})
        rows.append({"preset": preset, "measure": "no DataLoader, no PIL", "ratio": ratio(reference, plain)})
        rows.append({"preset": preset, "measure": "all of it", "ratio": ratio(whole, plain)})
    return rows


def compare_sizes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second of Kiln's `wgan-gp` by batch and by width."""
    config = PRESETS["wgan-gp"].config
    cases: list[tuple[str, dict[str, Any]]] = [(f"batch {n}", {"batch_size": n}) for n in (16, 32, 64, 128, 256)]
    for divisor in (8, 4, 2, 1):
        channels = {name: [c // divisor for c in getattr(config, name)] for name in ("g_channels", "d_channels")}
        cases.append((f"width 1/{divisor}", channels))
    rows = []
    for name, overrides in cases:
        task = {"preset": "wgan-gp", "threads": options.threads, "way": "kiln", "overrides": overrides}
        contestant = Contestant(name, task, WAIT_POLICY)
        race([contestant], options.rounds, options.turn_s)
        flops = flops_per_image(resolve("wgan-gp", overrides))
        rows.append({"size": name, "kiln": statistics.median(contestant.rates), "flops_per_image": flops})
    return rows


PARTS = {"ratio": compare_presets, "ablation": ablate, "sizes": compare_sizes}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=10.0, help="seconds of each turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(PRESETS))
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--peer", type=Path, help="a checkout of w86763777/pytorch-gan-collections")
    parser.add_argument("--out", type=Path, default=Path("data/bench/training.json"))
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} threads"
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "device": device, "machine": platform.platform(),
        "torch": torch.__version__, "rounds": options.rounds, "turn_s": options.turn_s,
        "load_average_before": os.getloadavg()[0], "matmul_flops_per_second": matmul_flops_per_second(options.threads),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        print(part, file=sys.stderr, flush=True)
        result[part] = PARTS[part](options)
        result |= {"load_average_after": os.getloadavg()[0], "seconds": round(time.monotonic() - started_s)}
        options.out.write_text(json.dumps(result, indent=1) + "\n")  # what was measured is not lost with the rest
    print(as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    matmul = result["matmul_flops_per_second"]
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['at']}; {result['rounds']} rounds of "
        f"{result['turn_s']:g} s; load before {result['load_average_before']:.1f}, after "
        f"{result['load_average_after']:.1f}; {matmul / 1e9:,.0f} GFLOP/s in matrix products",
    ]
    tables: dict[str, tuple[str, Any]] = {
        "ratio": (
            "| network | Kiln, images/s | other, images/s | ratio (lowest to highest round) | of the matmul rate |\n"
            "| --- | ---: | ---: | ---: | ---: |",
            lambda r: (
                f"| {r['what']} | {r['kiln']:.1f} | {r['other']:.1f} | **{r['ratio']:.2f}** ({r['lowest']:.2f} to "
                f"{r['highest']:.2f}) | {_share(r, matmul)} |"
            ),
        ),
        "ablation": (
            "| preset | measure | times as fast with it |\n| --- | --- | ---: |",
            lambda r: f"| {r['preset']} | {r['measure']} | {r['ratio']:.2f} |",
        ),
        "sizes": (
            "| `wgan-gp` with | images/s | of the matmul rate |\n| --- | ---: | ---: |",
            lambda r: f"| {r['size']} | {r['kiln']:.1f} | {_share(r, matmul)} |",
        ),
    }
    for part, (head, line) in tables.items():
        if part in result:
            lines += ["", head, *(line(row) for row in result[part])]
    return "\n".join(lines)


def _share(row: dict[str, Any], matmul: float) -> str:
    return f"{row['flops_per_image'] * row['kiln'] / matmul:.0%}" if "flops_per_image" in row else ""


if __name__ == "__main__":
    main()
