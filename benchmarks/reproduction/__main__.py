"""Trains every row of both reports through the public API: `make reproduce REPRODUCE_BUDGET=smoke|hours|day|full`.

Starts its own services, or uses the API at KILN_URL. Each row is a job with an idempotency key, so a second start
continues where the first one stopped. The result is a page with the reports' values, Kiln's values, and pictures.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from benchmarks.reproduction.page import Outcome, write_page
from kiln import ApiError, Job, Kiln

REPORTS = Path(__file__).with_name("reports.json")
EPOCH = 50_000  # training images of CIFAR-10. Half of a stacked batch is generated and does not count


@dataclass(frozen=True)
class Budget:
    """How much of a report's training is run."""

    description: str
    share: float = 1.0  # of the report's images; the intervals of ticks and snapshots shrink with it
    max_epochs: float | None = None
    eval_images: int = 10_000  # generated images for the evaluation of report 1's model

    def overrides(self, report: str, config: Mapping[str, Any]) -> dict[str, Any]:
        """The changes to a preset's config; they reduce the amount of training and change nothing else."""
        total = config["total_nimg"] * self.share
        if self.max_epochs is not None:
            epoch = EPOCH // 2 if config["d_batch"] == "stacked_half" else EPOCH
            total = min(total, self.max_epochs * epoch)
        changed: dict[str, Any] = {"eval_images": self.eval_images} if report == "report_1" and self.eval_images else {}
        if total < config["total_nimg"]:
            scale = total / config["total_nimg"]
            counted = ("total_nimg", "tick_nimg", "snapshot_nimg")  # lr_step_nimg stays
            changed |= {name: max(1, round(config[name] * scale)) for name in counted if config[name] is not None}
        return changed


BUDGETS = {
    "smoke": Budget("a few steps of each row, to show that all of them run", max_epochs=0.02, eval_images=0),
    "hours": Budget("two epochs of each row", max_epochs=2),
    "day": Budget("a third of each row's epochs, and at most 20", share=1 / 3, max_epochs=20),
    "full": Budget("all epochs of both reports", eval_images=50_000),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.add_argument("--budget", choices=BUDGETS, default="smoke")
    parser.add_argument("--page", type=Path, default=Path("docs/explanation/reproduction.md"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/images/reproduction"))
    parser.add_argument("--data", type=Path, default=Path("data/reproduction"), help="data folder of its own services")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--note", default="", help="a remark about the machine for the page")
    parser.add_argument("--collect", action="store_true", help="write the page at once, from current results")
    options = parser.parse_args()
    reports, budget = json.loads(REPORTS.read_text()), BUDGETS[options.budget]
    with _kiln(options.data) as kiln:
        jobs = submit(kiln, reports, options.budget, budget, options.dataset)
        if not options.collect:
            _wait_for_all(jobs)
        outcomes = {name: outcome(kiln, job) for name, job in jobs.items()}
        save_pictures(kiln, reports, outcomes, options.pictures)
    write_page(options.page, options.pictures, reports, outcomes, options.budget, budget.description, options.note)
    print(f"wrote {options.page}")
    return 0


def submit(kiln: Kiln, reports: Mapping[str, Any], name: str, budget: Budget, dataset: str) -> dict[str, Job]:
    """Submits one job per row of both reports. -> job by preset. A row that was submitted before keeps its job."""
    rows = {reports["report_1"]["preset"]: "report_1"} | dict.fromkeys(reports["report_2"]["rows"], "report_2")
    jobs = {}
    for preset, report in rows.items():
        overrides = budget.overrides(report, kiln.presets.get(preset)["config"])
        key = idempotency_key(name, preset, overrides, dataset)
        jobs[preset] = kiln.jobs.create(preset, overrides, dataset=dataset, name=preset, idempotency_key=key)
    return jobs


def idempotency_key(budget: str, preset: str, overrides: Mapping[str, Any], dataset: str) -> str:
    """The same key for the same row, budget and data set."""
    body = json.dumps([overrides, dataset], sort_keys=True)
    return f"reproduce-{budget}-{preset}-{hashlib.sha256(body.encode()).hexdigest()[:16]}"


def outcome(kiln: Kiln, job: Job) -> Outcome:
    """The result of a job, whether it succeeded or failed."""
    job = job.refresh()
    (row,) = kiln.jobs.compare([job])
    metrics = kiln.models.get(job.model_id).manifest["metrics"] if job.model_id else {}
    worst = max((line["loss_g"] for line in job.series()), default=None)
    full = kiln.presets.get(job.preset)["config"]["total_nimg"]
    return Outcome(job.id, job.status, job.error, full, row, metrics, worst)


def save_pictures(kiln: Kiln, reports: Mapping[str, Any], outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Saves loss curves and grids of report 1, and each table of report 2 side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    first = outcomes[reports["report_1"]["preset"]]
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        ("report-1-losses", f"/jobs/{first.job_id}/losses.png", {"images_per_epoch": EPOCH}),
        ("report-1-grids", f"/jobs/{first.job_id}/samples.png", {"count": 4}),
    ]
    for table in reports["report_2"]["tables"]:
        ids = ",".join(outcomes[row].job_id for row in table["rows"])
        wanted.append((table["picture"], "/compare", {"jobs": ids}))
    for name, path, params in wanted:
        try:
            picture = Image.open(io.BytesIO(kiln.get(path, params, accept="image/png").content)).convert("RGB")
            # 256 colours: grids of small images look the same, at a third of the size.
            picture.quantize(256).save(folder / f"{name}.png", optimize=True)
        except ApiError as error:  # a job that never started has no grids
            print(f"no picture {name}: {error}")


def _wait_for_all(jobs: Mapping[str, Job]) -> None:
    for name, job in jobs.items():
        print(f"{name}: {job.wait().status}", flush=True)


@contextmanager
def _kiln(data: Path) -> Iterator[Kiln]:
    """The API at KILN_URL; without that, services of its own, which are stopped at the end."""
    if "KILN_URL" in os.environ:
        with Kiln() as kiln:
            yield kiln
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "services.dev", "--port", str(port), "--data", str(data)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise SIGTERM would leave the services running
    with subprocess.Popen(command) as stack, Kiln(f"http://127.0.0.1:{port}") as kiln:
        try:
            _wait_until_it_responds(kiln, stack)
            yield kiln
        finally:
            stack.terminate()


def _wait_until_it_responds(kiln: Kiln, stack: subprocess.Popen[bytes]) -> None:
    while stack.poll() is None:
        with suppress(httpx2.TransportError):
            kiln.presets.list()  # retries for a minute
            return
    raise SystemExit("the services did not start; their output above has the reason")


if __name__ == "__main__":
    raise SystemExit(main())
