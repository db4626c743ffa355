"""Everything there is to learn on a machine with a GPU, in one command and one file: `make bench-gpu`.

The CUDA tests, then the benchmark of training. Each has a share of nine minutes and is ended when it is over; the file
has what came until then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

BUDGET_S = 530.0
# Name, share of the budget, command. Short turns: a GPU takes hundreds of steps in two seconds.
STEPS: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("cuda tests", 0.3, ("pytest", "tests", "-m", "cuda", "-q", "-p", "no:cacheprovider")),
    ("ratio", 0.25, ("benchmarks.training", "--rounds", "5", "--turn-s", "2", "--parts", "ratio")),
    ("ablation", 0.25, ("benchmarks.training", "--rounds", "3", "--turn-s", "1", "--parts", "ablation",
                        "--presets", "wgan-gp")),
    ("sizes", 0.2, ("benchmarks.training", "--rounds", "3", "--turn-s", "1", "--parts", "sizes")),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/bench/gpu.json"))
    out: Path = parser.parse_args().out
    if not torch.cuda.is_available():
        print("torch sees no CUDA device, so there is nothing to measure here; `make bench-training` measures the CPU")
        return 1
    started_s = time.monotonic()
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "device": torch.cuda.get_device_name(),
        "torch": torch.__version__, "cuda": torch.version.cuda, "steps": {},
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, share, command in STEPS:
        left_s = BUDGET_S - (time.monotonic() - started_s)
        result["steps"][name] = _run(command, min(left_s, share * BUDGET_S), out.with_name(f"{out.stem}-part.json"))
        result["seconds"] = round(time.monotonic() - started_s)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: status {result['steps'][name]['status']}, {result['seconds']} s so far", flush=True)
    print(f"all of it is in {out}")
    return 0 if all(step["status"] == 0 for step in result["steps"].values()) else 1


def _run(command: tuple[str, ...], limit_s: float, part: Path) -> dict[str, Any]:
    """One step: its exit status, the end of what it printed, and the figures it wrote."""
    part.unlink(missing_ok=True)
    told = ("--out", str(part)) if command[0].startswith("benchmarks.") else ()
    with subprocess.Popen(
        [sys.executable, "-m", *command, *told], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            printed, _ = process.communicate(timeout=max(1.0, limit_s))
            status: int | str | None = process.returncode
        except subprocess.TimeoutExpired:
            process.terminate()
            printed, _ = process.communicate()
            status = f"ended after {limit_s:.0f} s"
    figures = json.loads(part.read_text()) if part.exists() else None
    part.unlink(missing_ok=True)
    return {"command": " ".join(command), "status": status, "printed": printed[-20_000:], "figures": figures}


if __name__ == "__main__":
    sys.exit(main())
