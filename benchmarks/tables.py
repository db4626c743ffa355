"""Markdown tables of the results of benchmarks/training/__main__.py, for docs/explanation/performance.md.

python -m benchmarks.tables data/bench/training.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEADS = {
    "ratio": "| network | Kiln, images/s | other, images/s | ratio (lowest to highest round) | of the matmul rate |\n"
    "| --- | ---: | ---: | ---: | ---: |",
    "ablation": "| preset | optimisation | speed-up | images/s | first iteration, s |\n"
    "| --- | --- | ---: | ---: | ---: |",
    "sizes": "| `wgan-gp` with | fp32, images/s | of the matmul rate | bf16, images/s | of the matmul rate |\n"
    "| --- | ---: | ---: | ---: | ---: |",
    "operations": "| preset | operation | share of the time | calls per iteration |\n| --- | --- | ---: | ---: |",
}


def as_markdown(result: dict[str, Any]) -> str:
    matmul = result["matmul_flops_per_second"]
    products = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in matmul.items())
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['at']}; {result['rounds']} rounds of "
        f"{result['turn_s']:g} s; load before {result['load_average_before']:.1f}, after "
        f"{result['load_average_after']:.1f}; GFLOP/s in matrix products: {products}",
    ]
    for part, head in HEADS.items():
        if part in result:
            lines += ["", head, *(_line(part, row, matmul) for row in result[part])]
            failures = {name: reason for row in result[part] for name, reason in _failures(row).items()}
            lines += [f"\n{name} failed: {reason}" for name, reason in failures.items()]
    return "\n".join(lines)


def _line(part: str, row: dict[str, Any], matmul: dict[str, float]) -> str:
    flops = row.get("flops_per_image")
    match part:
        case "ratio":
            cells = [
                row["network"], _number(row["kiln"]), _number(row["other"]),
                f"**{_number(row['ratio'], 2)}** ({_number(row['lowest'], 2)} to {_number(row['highest'], 2)})",
                _share(flops, row["kiln"], matmul[row.get("precision", "fp32")]),
            ]  # fmt: skip
        case "ablation":
            cells = [
                row["preset"], row["measure"], _number(row["ratio"], 2), _number(row["rate"]),
                _number(row["first_s"]),
            ]  # fmt: skip
        case "sizes":
            cells = [
                row["size"], _number(row["kiln"]), _share(flops, row["kiln"], matmul["fp32"]),
                _number(row["bf16"]), _share(flops, row["bf16"], matmul["bf16"]),
            ]  # fmt: skip
        case _:
            cells = [row["preset"], f"`{row['operation']}`", f"{row['share']:.0%}", f"{row['calls']:,.0f}"]
    return f"| {' | '.join(cells)} |"


def _failures(row: dict[str, Any]) -> dict[str, str]:
    if row.get("failure"):
        return {row["measure"]: row["failure"]}
    return row.get("failures") or {}


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _share(flops: float | None, rate: float | None, matmul: float) -> str:
    return "" if flops is None or rate is None else f"{flops * rate / matmul:.0%}"


if __name__ == "__main__":
    print(as_markdown(json.loads(Path(sys.argv[1]).read_text())))
