"""Images per second of onnxruntime alone: `python -m benchmarks.serving.limit GRAPH`.

Prints the best of several batch sizes and numbers of threads. Then it reads a number of seconds per line, runs for that
long, and prints the rate.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import numpy as np
import onnxruntime

SIZES = (1, 4, 8, 16, 32, 64)


def open_session(graph: str | bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def rate(session: Any, workers: int, size: int, seconds: float) -> tuple[float, float]:
    """Runs batches of `size` images in `workers` threads. -> (images per second, processor seconds per image)"""
    latent_dim = next(i.shape[1] for i in session.get_inputs() if i.name == "z")
    z = np.random.default_rng(0).standard_normal((size, latent_dim), dtype=np.float32)
    inputs = {"z": z, "labels": np.arange(size, dtype=np.int64) % 10}
    session.run(["images"], inputs)
    counts, end_s = [0] * workers, time.perf_counter() + seconds

    def work(worker: int) -> None:
        while time.perf_counter() < end_s:
            session.run(["images"], inputs)
            counts[worker] += size

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = sum(counts)
    return made / (time.perf_counter() - began_s), (time.process_time() - cpu_s) / made


def main(graph: str) -> None:
    cores = os.cpu_count() or 1
    sessions = {(cores, 1): open_session(graph, cores), (1, cores): open_session(graph, 1)}
    best = max(
        (*rate(session, workers, size, 0.5), threads, workers, size)
        for (threads, workers), session in sessions.items()
        for size in SIZES
    )
    best_rate, _, threads, workers, size = best
    print(
        json.dumps({"threads": threads, "workers": workers, "batch": size, "images_per_second": best_rate}), flush=True
    )
    for line in sys.stdin:
        print(json.dumps(rate(sessions[threads, workers], workers, size, float(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
