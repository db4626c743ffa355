"""Writes the page that compares both reports with Kiln: their values, Kiln's values, and why they differ."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOSSES = {
    "initial_loss_d": "D first", "final_loss_d": "D last", "initial_loss_g": "G first", "final_loss_g": "G last",
}  # fmt: skip
INTRODUCTION = """\
Each row is a job of the preset of that name, submitted through `POST /jobs`. Nothing was tuned to match the reports.
A loss of D is the mean of its real and its fake half, as Keras prints it. *First* and *last* are means over the first
and the last epoch of a run, or over its first and last tick if it is shorter than two epochs. Accuracies are means of
the last epoch, on the batches that D was trained with. A smaller budget also shortens the intervals of ticks and
snapshots; the steps of the learning rate stay where they are."""
ACCURACIES = {"d_accuracy_real": "D real", "d_accuracy_fake": "D fake"}


@dataclass(frozen=True)
class Outcome:
    """The result of a row: its job, its row of GET /compare, its model's figures."""

    job_id: str
    status: str
    error: str | None
    report_images: int  # images that the preset, and so the report, trains with
    row: Mapping[str, Any]
    metrics: Mapping[str, Any]
    worst_loss_g: float | None

    @property
    def images(self) -> int:
        return int(self.row["images_seen"])


def write_page(
    page: Path, pictures: Path, reports: Mapping[str, Any], outcomes: Mapping[str, Outcome], budget: str,
    description: str, note: str,
) -> None:  # fmt: skip
    first, second = reports["report_1"], reports["report_2"]
    image_folder = Path(os.path.relpath(pictures, page.parent)).as_posix()
    parts = [
        "# Both reports, run again",
        f"Made by `make reproduce REPRODUCE_BUDGET={budget}`: {description}. "
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}." + (f" {note}" if note else ""),
        f"{INTRODUCTION} {reports['source']}",
        _report_1(first, outcomes[first["preset"]], image_folder),
        f"## {second['title']}",
        *(_table(table, second["rows"], outcomes, image_folder) for table in second["tables"]),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")


def _report_1(report: Mapping[str, Any], outcome: Outcome, image_folder: str) -> str:
    protocol = outcome.metrics.get("protocol") or {}
    extractor = protocol.get("extractor", {}).get("name", "none")
    rows = [
        ("FID", f"{report['fid']:g}", _number(outcome.metrics.get("fid"), 2),
         f"{_share(outcome)}; features are those of Kiln's {extractor}, another network than the report's, "
         f"of {protocol.get('images', 0):,} images"),
        ("FID, ImageNet features", "not reported", _number(outcome.metrics.get("imagenet_fid"), 1),
         f"the second judge, of the same {protocol.get('images', 0):,} images"),
        ("Inception Score", f"{report['inception_score']:g}", _number(outcome.metrics.get("inception_score"), 2),
         "1 is the minimum of the score, whatever the images; the report's value cannot be right"),
        ("images seen", f"{report['epochs'] * 50_000:,}", f"{outcome.images:,}", _ending(outcome) or "the budget"),
        ("seconds of training", "not reported", _number(outcome.row.get("seconds"), 0), "other hardware, other budget"),
    ]  # fmt: skip
    epochs = ", ".join(str(epoch) for epoch in report["grids_at_epochs"])
    return "\n\n".join([
        f"## {report['title']}",
        _markdown(("", "report", "Kiln", "why they differ"), rows),
        f"Loss curves (its Figure 1). The report prints the D loss with the opposite sign; here it is the paper's.\n\n"
        f"![Losses of both networks]({image_folder}/report-1-losses.png)",
        f"Sample grids of one set of latents, from the start to the end of the run (its Figure 2: epochs {epochs}).\n\n"
        f"![Grids of a hundred images each, over the training]({image_folder}/report-1-grids.png)",
    ])  # fmt: skip


def _table(
    table: Mapping[str, Any], values: Mapping[str, Any], outcomes: Mapping[str, Outcome], image_folder: str
) -> str:
    rows = []
    for name in table["rows"]:
        report, outcome = values[name], outcomes[name]
        pairs = [f"{_number(report.get(key), 4)} / {_number(outcome.row.get(key), 4)}" for key in LOSSES]
        pairs += [f"{_percent(report.get(key))} / {_percent(outcome.row.get(key))}" for key in ACCURACIES]
        seconds = f"{_number(report.get('seconds'), 0)} / {_number(outcome.row.get('seconds'), 0)}"
        rows.append((f"`{name}`", *pairs, seconds, _why(report, outcome)))
    header = ("report / Kiln", *LOSSES.values(), *ACCURACIES.values(), "seconds", "why they differ")
    picture = f"![Losses and the latest grids of these rows, side by side]({image_folder}/{table['picture']}.png)"
    return "\n\n".join([f"### {table['title']}", _markdown(header, rows), picture])


def _why(report: Mapping[str, Any], outcome: Outcome) -> str:
    parts = [_ending(outcome), _share(outcome)]
    if remark := report.get("remark"):
        parts.append(
            f"the report says: {remark}; the highest G loss of a tick here: {_number(outcome.worst_loss_g, 2)}"
        )
    elif report["final_loss_d"] < 0.6:
        parts.append("D is ahead in the report as well")
    return "; ".join(part for part in parts if part)


def _share(outcome: Outcome) -> str:
    return f"{outcome.images:,} images seen of the report's {outcome.report_images:,}"


def _ending(outcome: Outcome) -> str:
    if outcome.status == "succeeded":
        return ""
    return f"**{outcome.status}**{f': {outcome.error}' if outcome.error else ''}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{value:.0%}"


def _machine() -> str:
    """Cores and processor of this machine."""
    cpu = platform.processor() or platform.machine()
    try:  # the kernel knows more than Python
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return f"{os.cpu_count()} cores of {cpu}"
