"""How fast training is, against the plain PyTorch way, interleaved in one run: `make bench-training`.

    python -m benchmarks.training [--rounds 5] [--turn-s 10] [--peer CHECKOUT] [--parts ...] [--out FILE]

A figure is the median over the rounds, and a ratio is taken within a round: benchmarks/racing.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.arithmetic import flops_per_image, matmul_flops_per_second
from benchmarks.racing import WAITING, Contestant, median, race, ratios
from benchmarks.tables import as_markdown
from benchmarks.where import operations
from shared.configs.presets import PRESETS, resolve

ABLATION = {
    "cpu": ("winograd", "resample", "channels_last"),
    "cuda": ("capture", "channels_last"),
}
ONLY_FOR = {"winograd": "dcgan", "resample": "resnet"}
MEASURED = ("wgan-gp", "wgan-gp-conditional", "tiny", "cpu-hours")  # unless others are asked for
PRECISIONS = ("fp32", "bf16")
BATCHES, DIVISORS = (16, 32, 64, 128, 256), (8, 4, 2, 1)
# For `--quick`, which shows that all of it runs and measures nothing.
QUICK = {"latent_dim": 8, "batch_size": 4, "n_critic": 1}
QUICK_CHANNELS = {"dcgan": (3, 3), "keras-dcgan": (3, 3), "resnet": (4, 3)}  # how many of them


def compare_presets(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Kiln, in both precisions, against the plain way in fp32, preset by preset; and against the peer."""
    for preset in options.presets:
        task = _task(options, preset)
        yield from _against(options, Contestant("plain PyTorch", task | {"way": "plain"}), task, preset)
    if options.peer:
        task = _task(options, "wgan-gp") | {"path": str(options.peer)}
        yield from _against(
            options, Contestant("peer", task | {"way": "peer"}), task, "pytorch-gan-collections' CNN, WGAN-GP"
        )


def _against(
    options: argparse.Namespace, other: Contestant, task: dict[str, Any], what: str
) -> Iterator[dict[str, Any]]:
    kilns = {
        precision: Contestant(
            f"Kiln, {precision}",
            task | {"way": "kiln", "overrides": task["overrides"] | {"precision": precision}},
            WAITING,
        )
        for precision in PRECISIONS
    }
    race([*kilns.values(), other], options.rounds, options.turn_s)
    for precision, kiln in kilns.items():
        row = _row(f"{what}, {precision}", kiln, other) | {"precision": precision}
        yield row if "path" in task else row | {"flops_per_image": _flops(task)}


def _row(what: str, kiln: Contestant, other: Contestant) -> dict[str, Any]:
    spread = ratios(kiln, other)
    return {
        "what": what, "kiln": median(kiln.rates), "other": median(other.rates), "ratio": median(spread),
        "lowest": min(spread, default=None), "highest": max(spread, default=None),
        "failures": {c.name: c.failure for c in (kiln, other) if c.failure},
    }  # fmt: skip


def ablate(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each measure brings: everything, and everything but it; and the loader, by itself."""
    for preset in options.presets:
        task = _task(options, preset)
        config = resolve(preset, task["overrides"])
        names = [n for n in ABLATION[options.device] if ONLY_FOR.get(n, config.architecture) == config.architecture]

        def kiln(name: str, task: dict[str, Any] = task, **changes: Any) -> Contestant:
            return Contestant(name, task | {"way": "kiln"} | changes, WAITING)

        whole = kiln("all")
        pairs = [(without, whole, without) for without in (kiln(name, paths={name: False}) for name in names)]
        compiled = kiln("compile", paths={"compile": True, "winograd": False})
        is_bf16 = config.precision == "bf16"
        other = kiln("bf16", overrides=task["overrides"] | {"precision": "fp32" if is_bf16 else "bf16"})
        reference = Contestant("reference", task | {"way": "reference"})
        plain = Contestant("plain", task | {"way": "plain"})
        pairs += [(compiled, compiled, whole), (other, *((whole, other) if is_bf16 else (other, whole)))]
        if options.device == "cuda":
            tried = kiln("cudnn.benchmark", cudnn_benchmark=True)
            pairs.append((tried, tried, whole))
        else:
            for waiting, environment in (("spin", {}), ("sleep", {"OMP_WAIT_POLICY": "PASSIVE"})):
                other_way = Contestant(f"threads {waiting} while they wait", task | {"way": "kiln"}, environment)
                pairs.append((other_way, whole, other_way))
        race([whole, *(of for of, _, _ in pairs), reference, plain], options.rounds, options.turn_s)
        for of, with_it, without in pairs:
            yield _measure(preset, of.name, with_it, without, of)
        yield _measure(preset, "no DataLoader, no PIL", reference, plain, plain)
        yield _measure(preset, "all of it", whole, plain, whole)


def _measure(preset: str, name: str, with_it: Contestant, without: Contestant, of: Contestant) -> dict[str, Any]:
    return {
        "preset": preset, "measure": name, "ratio": median(ratios(with_it, without)), "rate": median(of.rates),
        "first_s": of.first_s, "failure": of.failure,
    }  # fmt: skip


def compare_sizes(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Images per second of Kiln's `wgan-gp` by batch and by width, in both precisions."""
    config = PRESETS["wgan-gp"].config
    cases: list[tuple[str, dict[str, Any]]] = [(f"batch {n}", {"batch_size": n}) for n in BATCHES]
    for divisor in DIVISORS:
        channels = {name: [c // divisor for c in getattr(config, name)] for name in ("g_channels", "d_channels")}
        cases.append((f"width 1/{divisor}", channels))
    pairs = []
    for name, overrides in cases[:1] if options.quick else cases:
        task = _task(options, "wgan-gp", overrides) | {"way": "kiln"}
        in_bf16 = task | {"overrides": task["overrides"] | {"precision": "bf16"}}
        pairs.append((Contestant(name, task, WAITING), Contestant(f"{name}, bf16", in_bf16, WAITING)))
    # On a GPU the processes take longer to start than to be measured, so they start together.
    for together in [pairs] if options.device == "cuda" else [[pair] for pair in pairs]:
        race([contestant for pair in together for contestant in pair], options.rounds, options.turn_s)
        for fp32, bf16 in together:
            yield {
                "size": fp32.name, "kiln": median(fp32.rates), "bf16": median(bf16.rates),
                "flops_per_image": _flops(fp32.task),
                "failures": {c.name: c.failure for c in (fp32, bf16) if c.failure},
            }  # fmt: skip


def look_where(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The operations that take the time."""
    for preset in options.presets:
        for row in operations(_task(options, preset) | {"way": "kiln"}, iterations=3):
            yield {"preset": preset, **row}


PARTS = {"ratio": compare_presets, "ablation": ablate, "sizes": compare_sizes, "where": look_where}


def _task(options: argparse.Namespace, preset: str, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    overrides = options.overrides | (overrides or {})
    if options.quick:
        g_length, d_length = QUICK_CHANNELS[PRESETS[preset].config.architecture]
        overrides |= QUICK | {"g_channels": [16] * g_length, "d_channels": [16] * d_length}
    return {"preset": preset, "device": options.device, "threads": options.threads, "overrides": overrides}


def _flops(task: dict[str, Any]) -> float:
    return flops_per_image(resolve(task["preset"], task["overrides"]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=10.0, help="seconds of each turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=list(ABLATION), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(MEASURED))
    parser.add_argument("--overrides", type=json.loads, default={}, help='of every config, e.g. {"precision": "bf16"}')
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--peer", type=Path, help="a checkout of w86763777/pytorch-gan-collections")
    parser.add_argument("--quick", action="store_true", help="tiny networks and turns: that it runs, not how fast")
    parser.add_argument("--out", type=Path, default=Path("data/bench/training.json"))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.turn_s = 1, 0.1
    started_s = time.monotonic()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} threads"
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "device": name, "machine": platform.platform(),
        "torch": torch.__version__, "rounds": options.rounds, "turn_s": options.turn_s, "overrides": options.overrides,
        "load_average_before": os.getloadavg()[0],
        "matmul_flops_per_second": matmul_flops_per_second(device, options.threads, small=options.quick),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        print(part, file=sys.stderr, flush=True)
        result[part] = []
        for row in PARTS[part](options):
            result[part].append(row)
            result |= {"load_average_after": os.getloadavg()[0], "seconds": round(time.monotonic() - started_s)}
            options.out.write_text(json.dumps(result, indent=1) + "\n")  # what was measured is not lost with the rest
    print(as_markdown(result))


if __name__ == "__main__":
    main()
