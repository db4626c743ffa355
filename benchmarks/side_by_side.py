"""What a training job costs the API on the same machine, and what the settings bring: `make bench-side-by-side`.

Starts a stack of its own, trains a small model, then asks for images while nothing else runs, while a job runs with
KILN_TRAINER_NICE=0, and while one runs with the default. Requests come at fixed times, whether the last one was answered
or not, so that a slow answer does not lower the load.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from services.dev import free_port

MODEL = {"total_nimg": 2_000, "tick_nimg": 1_000, "snapshot_nimg": 10**6}
CASES: tuple[tuple[str, dict[str, str] | None], ...] = (
    ("no job", None),
    ("job, nice 0, spinning", {"KILN_TRAINER_NICE": "0", "OMP_WAIT_POLICY": "ACTIVE"}),
    ("job, nice 0", {"KILN_TRAINER_NICE": "0"}),
    ("job, as shipped", {}),
)
PATIENCE_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--every-s", type=float, default=0.1)
    parser.add_argument("--datasets", type=Path, default=None, help="folder with cifar10/; default: KILN_DATASETS")
    parser.add_argument("--dataset", default="cifar10")
    options = parser.parse_args()
    rows = [measure(name, settings, options) for name, settings in CASES]
    print("| | median, ms | 95th, ms | slowest, ms | training, images/s |\n| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        times = sorted(row["ms"])
        rate = f"{row['rate']:.0f}" if row["rate"] else ""
        print(f"| {row['name']} | {statistics.median(times):.1f} | {times[int(len(times) * 0.95)]:.1f} | {times[-1]:.1f} "
              f"| {rate} |")  # fmt: skip


def measure(name: str, settings: dict[str, str] | None, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kiln-beside-") as data, stack(Path(data), settings or {}, options) as http:
        job = http.post("/jobs", json={"preset": "tiny", "dataset": options.dataset, "overrides": MODEL}).json()
        wait_for(http, job["id"], lambda seen: seen["status"] == "succeeded")
        wait_until_ready(http)
        rate, busy = None, None
        if settings is not None:
            endless = {"preset": "tiny", "dataset": options.dataset, "overrides": MODEL | {"total_nimg": 10**8}}
            busy = http.post("/jobs", json=endless).json()["id"]
            wait_for(http, busy, lambda seen: seen["progress"]["images_seen"] > 0)
        times = ask(http, options.requests, options.every_s)
        if busy:
            rate = http.get(f"/jobs/{busy}").json()["progress"]["images_per_second"]
            http.post(f"/jobs/{busy}/cancel")
            wait_for(http, busy, lambda seen: seen["status"] == "cancelled")
    print(f"{name}: median {statistics.median(times):.1f} ms", file=sys.stderr, flush=True)
    return {"name": name, "ms": times, "rate": rate}


def ask(http: httpx2.Client, count: int, every_s: float) -> list[float]:
    """Milliseconds from when each request was due to its answer."""
    times, lock, started_s = [], threading.Lock(), time.perf_counter() + 0.5

    def one(number: int) -> None:
        due_s = started_s + number * every_s
        time.sleep(max(0.0, due_s - time.perf_counter()))
        http.get("/generate", params={"n": 16, "seed": number, "class": number % 2}).raise_for_status()
        with lock:
            times.append(1000 * (time.perf_counter() - due_s))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


@contextmanager
def stack(data: Path, settings: dict[str, str], options: argparse.Namespace) -> Iterator[httpx2.Client]:
    port = free_port()
    command = [sys.executable, "-m", "services.dev", "--port", str(port), "--data", str(data)]
    if folder := options.datasets or os.environ.get("KILN_DATASETS"):
        command += ["--datasets", str(folder)]
    with (data / "out").open("w") as out:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=out, stderr=out)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            until(lambda: _answers(http))
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_for(http: httpx2.Client, job_id: str, is_so: Any) -> None:
    def look() -> bool:
        seen = http.get(f"/jobs/{job_id}").json()
        assert seen["status"] not in ("failed", "lost"), json.dumps(seen)
        return bool(is_so(seen))

    until(look)


def wait_until_ready(http: httpx2.Client) -> None:
    until(lambda: http.get("/readyz").status_code == 200)


def until(look: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.2)


def _answers(http: httpx2.Client) -> bool:
    try:
        return http.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False


if __name__ == "__main__":
    main()
