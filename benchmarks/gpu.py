"""Tests and measures Kiln on a machine with a GPU, in one command and nine minutes: `make bench-gpu`.

Runs the CUDA tests, a training run from data set to model, and the benchmark of training. Each step has a share of the
time and is stopped at its end; the result file has its output up to then. `make bench-gpu BENCH="--device cpu --quick"`
runs small versions of all steps on a CPU, to test this script before GPU time is spent; their figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving.side_by_side import DATASET, write_images

BUDGET_S = 530.0
GRACE_S = 5.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Step:
    """A module to run, and its share of BUDGET_S. Later steps may use the time that it does not need."""

    name: str
    share: float
    module: str
    arguments: tuple[str, ...]
    quick: tuple[str, ...]  # arguments with --quick; benchmarks.training gets them in addition

    def command(self, part: Path, device: str, *, is_quick: bool) -> list[str]:
        if self.module != "benchmarks.training":
            return [sys.executable, "-m", self.module, *(self.quick if is_quick else self.arguments)]
        quick = ("--quick", *self.quick) if is_quick else ()
        return [
            sys.executable, "-m", self.module, *self.arguments, "--device", device, "--out", str(part), *quick,
        ]  # fmt: skip


# Turns are short: a GPU takes hundreds of steps in two seconds.
STEPS = (
    Step(
        "cuda tests", 0.25, "pytest", ("tests/trainer", "-m", "cuda", "-q", "-p", "no:cacheprovider"),
        ("tests/trainer/training/test_fast_paths.py", "-k", "never_waits and tiny", "-q", "-p", "no:cacheprovider"),
    ),
    Step(
        "a whole run", 0.15, "services.trainer",
        ("train", "--preset", "wgan-gp", "--dataset", DATASET, "-o", "max_minutes=0.5"),
        ("train", "--preset", "tiny", "--dataset", DATASET, "-o", "total_nimg=64", "-o", "batch_size=8",
         "-o", "g_channels=[8,8,8]", "-o", "d_channels=[8,8,8]"),
    ),
    Step(
        "ratio", 0.3, "benchmarks.training",
        ("--rounds", "5", "--turn-s", "2", "--parts", "ratio", "--presets", "wgan-gp,wgan-gp-conditional,tiny"),
        ("--presets", "tiny"),
    ),
    Step(
        "ablation", 0.25, "benchmarks.training",
        ("--rounds", "3", "--turn-s", "1", "--parts", "ablation", "--presets", "wgan-gp"), (),
    ),
    Step("sizes", 0.2, "benchmarks.training", ("--rounds", "3", "--turn-s", "1", "--parts", "sizes"), ()),
    Step("operations", 0.1, "benchmarks.training", ("--parts", "operations", "--presets", "wgan-gp"), ()),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run small versions of all steps, without time limits",
    )
    parser.add_argument("--steps", type=lambda text: text.split(","), default=[step.name for step in STEPS])
    parser.add_argument("--out", type=Path, default=Path("data/bench/gpu.json"))
    options = parser.parse_args(arguments)
    out: Path = options.out
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device; `make bench-training` measures the CPU")
        return 1
    started_s = time.monotonic()
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "CPU", "is_quick": options.quick,
        "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "steps": {},
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as scratch:
        data = Path(scratch)
        environment = os.environ | {"KILN_DATA": str(data), "KILN_DATASETS": str(write_images(data / "datasets"))}
        for step in (step for step in STEPS if step.name in options.steps):
            command = step.command(data / "part.json", options.device, is_quick=options.quick)
            left_s = BUDGET_S - (time.monotonic() - started_s)
            limit_s = None if options.quick else max(1.0, min(left_s, step.share * BUDGET_S))
            result["steps"][step.name] = _run(command, environment, limit_s, data / "part.json")
            result["seconds"] = round(time.monotonic() - started_s)
            out.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{step.name}: status {result['steps'][step.name]['status']}, {result['seconds']} s", flush=True)
    print(f"results: {out}")
    return 0 if all(step["status"] == 0 for step in result["steps"].values()) else 1


def _run(command: list[str], environment: dict[str, str], limit_s: float | None, part: Path) -> dict[str, Any]:
    """Runs one step. -> its exit status, the end of its output, and its figures. Its child processes end with it."""
    part.unlink(missing_ok=True)
    started_s = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | str = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            status = f"ended after {limit_s:.0f} s"
            _terminate(process)
        printed.seek(0)
        text = printed.read()
    figures = json.loads(part.read_text()) if part.exists() else None
    return {
        "command": " ".join(command[1:]), "status": status, "seconds": round(time.monotonic() - started_s, 1),
        "printed": text[-20_000:], "figures": figures,
    }  # fmt: skip


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Ends the step and its child processes, which form one process group."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
