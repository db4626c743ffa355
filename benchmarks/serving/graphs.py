"""Compares the speed of ONNX graphs of the same network: `python -m benchmarks.serving.graphs A.onnx B.onnx`.

The graphs take turns on one onnxruntime thread on the CPU; that thread's processor time is measured. Ratios are
computed within a round, because the load of the machine changes. Prints a table: each graph's speed relative to the
first, and its microseconds per image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.serving.limit import open_session

SIZES = (1, 8, 32, 64)  # images per call
IMAGES = 48  # the fewest per turn


def measure(graphs: dict[str, bytes], size: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds per image of each graph in each round."""
    sessions = {name: open_session(graph, 1) for name, graph in graphs.items()}
    rng = np.random.default_rng(0)
    latent_dim = {i.name: i.shape for i in next(iter(sessions.values())).get_inputs()}["z"][1]
    feed = {"z": rng.standard_normal((size, latent_dim)).astype(np.float32), "labels": np.arange(size) % 10}
    calls = -(-IMAGES // size)
    micros: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, session in sessions.items():
            session.run(["images"], feed)  # fills the processor caches with this graph again
            began_s = time.thread_time()
            for _ in range(calls):
                session.run(["images"], feed)
            micros[name].append((time.thread_time() - began_s) * 1e6 / calls / size)
    return micros


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graphs", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args(argv)
    graphs = {path.stem: path.read_bytes() for path in arguments.graphs}
    cells: dict[str, list[str]] = {name: [] for name in graphs}
    for size in SIZES:
        micros = measure(graphs, size, arguments.rounds)
        first = next(iter(micros.values()))
        for name, times in micros.items():
            ratio = statistics.median(a / b for a, b in zip(first, times, strict=True))
            cells[name].append(f"{ratio:.2f} ({statistics.median(times):.0f} µs)")
    rows = [["graph", *(f"n={size}" for size in SIZES)], ["---", *["---:"] * len(SIZES)]]
    for row in [*rows, *([name, *row] for name, row in cells.items())]:
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
