"""Draws PNG plots of training runs and sweeps: loss curves, sample grids, trial histories, importances.

Matplotlib is imported by the first plot, because its import takes as long as all other imports of the API.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from shared.sweeps.record import Sweep, TrialState

Rows = Sequence[Mapping[str, float]]

DPI = 100
LOSSES = {"loss_g": ("generator", "tab:orange"), "loss_d": ("discriminator", "tab:blue")}
BACKGROUND = (255, 255, 255)
GAP = 8  # pixels between two grids


def losses_png(rows: Rows, title: str, images_per_epoch: int | None = None) -> bytes:
    """Both losses over the images seen, or over epochs if their length is known. 800x450 pixels."""
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    unit = images_per_epoch or 1
    for name, (label, color) in LOSSES.items():
        points = [(row["nimg"] / unit, row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=color, marker="." if len(points) < 50 else "")
    axes.set(xlabel="epoch" if images_per_epoch else "real images seen", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    if rows:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no metrics yet", transform=axes.transAxes, ha="center", va="center")
    return _png(figure)


def curves_png(
    series: Mapping[str, Rows], grids: Mapping[str, bytes | None], images_per_epoch: int | None = None
) -> bytes:
    """Several jobs by name: their losses in common axes above, the latest sample grid of each below."""
    figure = _figure(4 * max(2, len(series)), 9)
    unit = images_per_epoch or 1
    above, below = figure.subfigures(2, 1)
    for axes, (name, (label, _)) in zip(above.subplots(1, len(LOSSES), squeeze=False)[0], LOSSES.items(), strict=True):
        for job, rows in series.items():
            points = [(row["nimg"] / unit, row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=job)
        axes.set(xlabel="epoch" if images_per_epoch else "real images seen", ylabel="loss", title=label)
        axes.grid(alpha=0.3)
        if series:
            axes.legend(fontsize="small")
    for axes, (job, png) in zip(below.subplots(1, max(1, len(grids)), squeeze=False)[0], grids.items(), strict=False):
        axes.set(title=job)
        axes.set_axis_off()
        if png is None:
            axes.text(0.5, 0.5, "no samples", transform=axes.transAxes, ha="center", va="center")
        else:
            axes.imshow(_open(png), interpolation="nearest")
    return _png(figure)


def sweep_png(sweep: Sweep) -> bytes:
    """The objective of each trial, and the best so far as a line; failed and pruned trials as marks. 800x450 pixels."""
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    objective = sweep.spec.objective
    if values := sweep.values:
        best = itertools.accumulate(values.values(), max if objective.direction == "maximize" else min)
        axes.scatter(list(values), list(values.values()), color="tab:blue", label="complete", zorder=3)
        axes.step(list(values), list(best), where="post", color="tab:orange", label="best so far")
    for state, marker in ((TrialState.PRUNED, "|"), (TrialState.FAILED, "x")):
        numbers = [trial.number for trial in sweep.trials if trial.state is state]
        if numbers:
            axes.scatter(numbers, [0.02] * len(numbers), marker=marker, color="tab:red", label=str(state),
                         transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set(xlabel="trial", ylabel=f"{objective.metric} ({objective.direction})", title=sweep.name or sweep.id)
    axes.set_xlim(-0.5, max(1, len(sweep.trials)) - 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if any(trial.is_over for trial in sweep.trials):
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no trial has ended yet", transform=axes.transAxes, ha="center", va="center")
    return _png(figure)


def importances_png(importances: Mapping[str, float], sweep: Sweep) -> bytes:
    """A bar for each varied field, the most important one on top. 800 pixels wide."""
    figure = _figure(8, 1.5 + 0.4 * max(2, len(importances)))
    axes = figure.subplots()
    names = list(importances)[::-1]
    bars = axes.barh(names, [importances[name] for name in names], color="tab:blue")
    if importances:
        axes.bar_label(bars, fmt="%.2f", padding=3)
    else:
        axes.text(0.5, 0.5, "all trials are equal so far", transform=axes.transAxes, ha="center", va="center")
    axes.set(
        xlabel=f"importance for {sweep.spec.objective.metric} (PED-ANOVA)", xlim=(0, 1.1), title=sweep.name or sweep.id
    )
    return _png(figure)


def strip_png(grids: Sequence[bytes]) -> bytes:
    """Sample grids side by side, unscaled, with a gap of GAP pixels."""
    images = [_open(png) for png in grids]
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), BACKGROUND)
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _open(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB")


def _figure(width_inches: float, height_inches: float) -> Any:
    # Not with pyplot: its figures are global, and requests may draw at the same time.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=DPI, layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
