"""How a training job slows the API on the same machine: `make bench-side-by-side`.

Starts its own services and requests images of the starter model, first without a job, then beside a training job, with
and without the settings that Kiln ships. Requests are sent at fixed times, even while earlier ones are in flight, so
that slow responses do not lower the load.
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
from PIL import Image

from services.dev import free_port

ENDLESS = {"total_nimg": 10**8, "tick_nimg": 1_000, "snapshot_nimg": 10**6}
CASES: tuple[tuple[str, dict[str, str] | None], ...] = (
    ("no job", None),
    ("job, nice 0, spinning", {"KILN_TRAINER_NICE": "0", "OMP_WAIT_POLICY": "ACTIVE"}),
    ("job, nice 0, sleeping", {"KILN_TRAINER_NICE": "0", "OMP_WAIT_POLICY": "PASSIVE"}),
    ("job, nice 0", {"KILN_TRAINER_NICE": "0"}),
    ("job, as shipped", {}),
)
TIMEOUT_S = 300.0
DATASET, CLASSES = "colors", ("blue", "red")  # of the training job
REQUESTED = ("cat", "dog")  # classes of the starter model that the requests name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--every-s", type=float, default=0.1)
    options = parser.parse_args()
    rows = [measure(name, settings, options) for name, settings in CASES]
    print("| | median, ms | 95th, ms | slowest, ms | training, images/s |\n| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        times = sorted(row["ms"])
        rate = f"{row['rate']:.0f}" if row["rate"] else ""
        figures = (statistics.median(times), times[int(len(times) * 0.95)], times[-1])
        print(f"| {row['name']} | {' | '.join(f'{ms:.1f}' for ms in figures)} | {rate} |")


def measure(name: str, settings: dict[str, str] | None, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kiln-beside-") as data, stack(Path(data), settings or {}) as http:
        wait_until(lambda: http.get("/readyz").status_code == 200)
        rate, job_id = None, None
        if settings is not None:
            job_id = http.post("/jobs", json={"preset": "tiny", "dataset": DATASET, "overrides": ENDLESS}).json()["id"]
            wait_for_job(http, job_id, lambda job: job["progress"]["images_seen"] > 0)
        times = send_requests(http, options.requests, options.every_s)
        if job_id:
            rate = http.get(f"/jobs/{job_id}").json()["progress"]["images_per_second"]
            http.post(f"/jobs/{job_id}/cancel")
            wait_for_job(http, job_id, lambda job: job["status"] == "cancelled")
    print(f"{name}: median {statistics.median(times):.1f} ms", file=sys.stderr, flush=True)
    return {"name": name, "ms": times, "rate": rate}


def send_requests(http: httpx2.Client, count: int, every_s: float) -> list[float]:
    """Milliseconds from the time at which each request was due until its response."""
    times, lock, started_s = [], threading.Lock(), time.perf_counter() + 0.5

    def request(number: int) -> None:
        due_s = started_s + number * every_s
        time.sleep(max(0.0, due_s - time.perf_counter()))
        http.get("/generate", params={"n": 16, "seed": number, "class": REQUESTED[number % 2]}).raise_for_status()
        with lock:
            times.append(1000 * (time.perf_counter() - due_s))

    threads = [threading.Thread(target=request, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


@contextmanager
def stack(data: Path, settings: dict[str, str]) -> Iterator[httpx2.Client]:
    port = free_port()
    command = [sys.executable, "-m", "services.dev", "--port", str(port), "--dashboard-port", "0", "--data", str(data)]
    command += ["--datasets", str(write_images(data / "datasets"))]
    with (data / "out").open("w") as out:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=out, stderr=out)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            wait_until(lambda: _responds(http))
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def write_images(folder: Path) -> Path:
    """Writes a data set of plain squares; its content does not change the load. -> `folder`"""
    for label in CLASSES:
        class_folder = folder / DATASET / "train" / label
        class_folder.mkdir(parents=True)
        for number in range(50):
            Image.new("RGB", (32, 32), label).save(class_folder / f"{number}.png")
    return folder


def wait_for_job(http: httpx2.Client, job_id: str, condition: Any) -> None:
    def check() -> bool:
        job = http.get(f"/jobs/{job_id}").json()
        assert job["status"] not in ("failed", "lost"), json.dumps(job)
        return bool(condition(job))

    wait_until(check)


def wait_until(check: Any) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline_s, f"timed out after {TIMEOUT_S:g} s"
        time.sleep(0.2)


def _responds(http: httpx2.Client) -> bool:
    try:
        return http.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False


if __name__ == "__main__":
    main()
