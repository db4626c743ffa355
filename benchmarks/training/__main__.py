"""Kiln's training speed against plain PyTorch, measured in alternating turns: `make bench-training`.

    python -m benchmarks.training [--rounds 5] [--turn-s 10] [--peer CHECKOUT] [--parts ...] [--out FILE]

Rates are medians over the rounds. Ratios are computed within each round and then reduced to their median.
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

from benchmarks.tables import as_markdown
from benchmarks.training.arithmetic import flops_per_image, matmul_flops_per_second
from benchmarks.training.operations import operations
from benchmarks.training.racing import SHIPPED_ENVIRONMENT, Contestant, median, race, ratios
from shared.configs.presets import PRESETS, resolve

ABLATION = {
    "cpu": ("winograd", "resample", "channels_last"),
    "cuda": ("capture", "channels_last"),
}
ONLY_FOR = {"winograd": "dcgan", "resample": "resnet"}  # the architecture that has this fast path
DEFAULT_PRESETS = ("wgan-gp", "wgan-gp-conditional", "tiny", "cpu-hours")
PRECISIONS = ("fp32", "bf16")
BATCHES, DIVISORS = (16, 32, 64, 128, 256), (8, 4, 2, 1)
# With `--quick` everything runs with the smallest networks; the figures mean nothing.
QUICK = {"latent_dim": 8, "batch_size": 4, "n_critic": 1}
QUICK_CHANNELS = {"dcgan": (3, 3), "keras-dcgan": (3, 3), "resnet": (4, 3)}  # lengths of g_channels and d_channels


def compare_presets(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Kiln in both precisions against plain PyTorch in fp32, for each preset; and against the peer."""
    for preset in options.presets:
        task = _task(options, preset)
        yield from _against(options, Contestant("plain PyTorch", task | {"implementation": "plain"}), task, preset)
    if options.peer:
        task = _task(options, "wgan-gp") | {"path": str(options.peer)}
        yield from _against(
            options,
            Contestant("peer", task | {"implementation": "peer"}),
            task,
            "pytorch-gan-collections' CNN, WGAN-GP",
        )


def _against(
    options: argparse.Namespace, other: Contestant, task: dict[str, Any], network: str
) -> Iterator[dict[str, Any]]:
    kilns = {
        precision: Contestant(
            f"Kiln, {precision}",
            task | {"implementation": "kiln", "overrides": task["overrides"] | {"precision": precision}},
            SHIPPED_ENVIRONMENT,
        )
        for precision in PRECISIONS
    }
    race([*kilns.values(), other], options.rounds, options.turn_s)
    for precision, kiln in kilns.items():
        row = _row(f"{network}, {precision}", kiln, other) | {"precision": precision}
        yield row if "path" in task else row | {"flops_per_image": _flops(task)}


def _row(network: str, kiln: Contestant, other: Contestant) -> dict[str, Any]:
    by_round = ratios(kiln, other)
    return {
        "network": network, "kiln": median(kiln.rates), "other": median(other.rates), "ratio": median(by_round),
        "lowest": min(by_round, default=None), "highest": max(by_round, default=None),
        "failures": {c.name: c.failure for c in (kiln, other) if c.failure},
    }  # fmt: skip


def ablate(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The speed-up of each optimisation: Kiln with all of them against Kiln without this one; and of the loader."""
    for preset in options.presets:
        task = _task(options, preset)
        config = resolve(preset, task["overrides"])
        names = [n for n in ABLATION[options.device] if ONLY_FOR.get(n, config.architecture) == config.architecture]

        def kiln(name: str, task: dict[str, Any] = task, **changes: Any) -> Contestant:
            return Contestant(name, task | {"implementation": "kiln"} | changes, SHIPPED_ENVIRONMENT)

        complete = kiln("all")
        pairs = [(without, complete, without) for without in (kiln(name, paths={name: False}) for name in names)]
        compiled = kiln("compile", paths={"compile": True, "winograd": False})
        is_bf16 = config.precision == "bf16"
        other = kiln("bf16", overrides=task["overrides"] | {"precision": "fp32" if is_bf16 else "bf16"})
        reference = Contestant("reference", task | {"implementation": "reference"})
        plain = Contestant("plain", task | {"implementation": "plain"})
        pairs += [(compiled, compiled, complete), (other, *((complete, other) if is_bf16 else (other, complete)))]
        if options.device == "cuda":
            tried = kiln("cudnn.benchmark", cudnn_benchmark=True)
            pairs.append((tried, tried, complete))
        else:
            for waiting, environment in (("spin", {}), ("sleep", {"OMP_WAIT_POLICY": "PASSIVE"})):
                name = f"threads {waiting} while they wait"
                contestant = Contestant(name, task | {"implementation": "kiln"}, environment)
                pairs.append((contestant, complete, contestant))
        race([complete, *(measured for measured, _, _ in pairs), reference, plain], options.rounds, options.turn_s)
        for measured, with_it, without in pairs:
            yield _ablation_row(preset, measured.name, with_it, without, measured)
        yield _ablation_row(preset, "no DataLoader, no PIL", reference, plain, plain)
        yield _ablation_row(preset, "all optimisations", complete, plain, complete)


def _ablation_row(
    preset: str, name: str, with_it: Contestant, without: Contestant, measured: Contestant
) -> dict[str, Any]:
    """The speed-up of `with_it` over `without`, and the rate of `measured`, which is one of the two."""
    return {
        "preset": preset, "measure": name, "ratio": median(ratios(with_it, without)), "rate": median(measured.rates),
        "first_s": measured.first_s, "failure": measured.failure,
    }  # fmt: skip


def compare_sizes(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Images per second of `wgan-gp` for several batch sizes and network widths, in both precisions."""
    config = PRESETS["wgan-gp"].config
    cases: list[tuple[str, dict[str, Any]]] = [(f"batch {n}", {"batch_size": n}) for n in BATCHES]
    for divisor in DIVISORS:
        channels = {name: [c // divisor for c in getattr(config, name)] for name in ("g_channels", "d_channels")}
        cases.append((f"width 1/{divisor}", channels))
    pairs = []
    for name, overrides in cases[:1] if options.quick else cases:
        task = _task(options, "wgan-gp", overrides) | {"implementation": "kiln"}
        in_bf16 = task | {"overrides": task["overrides"] | {"precision": "bf16"}}
        pairs.append(
            (
                Contestant(name, task, SHIPPED_ENVIRONMENT),
                Contestant(f"{name}, bf16", in_bf16, SHIPPED_ENVIRONMENT),
            )
        )
    # On a GPU the start of a process takes longer than its measurement, so all of them start together.
    for together in [pairs] if options.device == "cuda" else [[pair] for pair in pairs]:
        race([contestant for pair in together for contestant in pair], options.rounds, options.turn_s)
        for fp32, bf16 in together:
            yield {
                "size": fp32.name, "kiln": median(fp32.rates), "bf16": median(bf16.rates),
                "flops_per_image": _flops(fp32.task),
                "failures": {c.name: c.failure for c in (fp32, bf16) if c.failure},
            }  # fmt: skip


def profile_operations(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The slowest operations of an iteration of each preset."""
    for preset in options.presets:
        for row in operations(_task(options, preset) | {"implementation": "kiln"}, iterations=3):
            yield {"preset": preset, **row}


PARTS = {"ratio": compare_presets, "ablation": ablate, "sizes": compare_sizes, "operations": profile_operations}


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
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(DEFAULT_PRESETS))
    parser.add_argument(
        "--overrides", type=json.loads, default={}, help='changes to every preset, e.g. {"precision": "bf16"}'
    )
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--peer", type=Path, help="a checkout of w86763777/pytorch-gan-collections")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run everything with tiny networks and short turns; the figures mean nothing",
    )
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
            options.out.write_text(
                json.dumps(result, indent=1) + "\n"
            )  # after each row, so that an interruption loses nothing
    print(as_markdown(result))


if __name__ == "__main__":
    main()
