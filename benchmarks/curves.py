"""Plots of FID against images seen and against seconds: `make plots` draws curves.json into docs/images.

    python -m services.trainer evaluate <weights/*.safetensors of a run> --images 10000 --json > figures.json
    python -m benchmarks.curves --add NAME figures.json --images-per-second 300

adds the figures of a run's snapshots to that file. Seconds are CPU seconds of the training process: its images divided
by its rate. Wall times of runs that shared a machine would depend on its other load.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

CURVES, IMAGES = Path("benchmarks/curves.json"), Path("docs/images")
FIGURES = (
    "fid", "kid", "inception_score", "precision", "recall", "density", "coverage", "class_accuracy",
    "imagenet_fid", "imagenet_kid", "imagenet_precision", "imagenet_recall", "imagenet_density", "imagenet_coverage",
)  # fmt: skip
PLOTS = {"fid_by_images": ("real images seen", 1.0), "fid_by_seconds": ("CPU seconds of the training process", None)}


def load(file: Path) -> dict[str, Any]:
    curves: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    return curves


def add(curves: dict[str, Any], name: str, records: list[dict[str, Any]], images_per_second: float | None) -> None:
    """Adds the records of `evaluate` to the run `name`. A record replaces the one with the same number of images seen.

    Raises ValueError for figures of another protocol, because they are not comparable.
    """
    run = curves["runs"].setdefault(name, {"images_per_second": None, "points": []})
    run["images_per_second"] = images_per_second or run["images_per_second"]
    points = {point["images_seen"]: point for point in run["points"]}
    for record in records:
        metrics = record["metrics"]
        protocol = {key: metrics["protocol"][key] for key in ("extractor", "images", "seed", "reference")}
        if curves.setdefault("protocol", protocol) != protocol:
            raise ValueError(f"{record['model']} was measured by another protocol: {protocol}")
        curves["floor"] = metrics["protocol"]["real"]["fid"]
        figures = {key: metrics[key] for key in FIGURES if metrics.get(key) is not None}
        points[record["images_seen"]] = {"images_seen": record["images_seen"]} | figures
    run["points"] = [points[nimg] for nimg in sorted(points)]


def draw(curves: dict[str, Any], plot: str) -> Figure:
    """One plot with a line for each run and one for the floor; both axes are logarithmic."""
    label, per_second = PLOTS[plot]
    figure = Figure(figsize=(6.4, 4), dpi=120, layout="constrained")
    axes: Axes = figure.subplots()
    for name, run in curves["runs"].items():
        rate = per_second or run["images_per_second"]
        points = [(point["images_seen"] / rate, point["fid"]) for point in run["points"]]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.axhline(curves["floor"], color="gray", linestyle="--", linewidth=1, label="real test images")
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=f"FID of {curves['protocol']['images']:,} images")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(LogLocator(subs="auto"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--add", nargs=2, metavar=("NAME", "FILE"), help="name of a run, and its snapshots' `evaluate --json`"
    )
    parser.add_argument("--images-per-second", type=float, help="images per CPU second of the run")
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the plots")
    options = parser.parse_args()
    curves = load(options.curves)
    if options.add:
        name, file = options.add
        add(curves, name, json.loads(Path(file).read_text()), options.images_per_second)
        options.curves.write_text(json.dumps(curves, indent=1) + "\n")
        return
    for plot in PLOTS:
        draw(curves, plot).savefig(options.out / f"{plot}.png")


if __name__ == "__main__":
    main()
