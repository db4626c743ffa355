"""The plots of docs/explanation/experiments.md have one line per run, from the figures of its snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.lines import Line2D

from benchmarks.curves import CURVES, IMAGES, PLOTS, add, draw, load
from tests.conftest import ROOT

FLOOR = 0.01


def record(nimg: int, fid: float, images: int = 10_000) -> dict[str, Any]:
    """A record as `evaluate --json` prints it, of an unconditional model."""
    protocol = {"extractor": {"digest": "d"}, "images": images, "seed": 0, "reference": {}, "real": {"fid": FLOOR}}
    figures = {"fid": fid, "kid": 0.1, "inception_score": 2.0, "precision": 0.5, "recall": 0.5, "class_accuracy": None}
    return {"model": str(nimg), "images_seen": nimg, "metrics": figures | {"protocol": protocol}}


def lines(curves: dict[str, Any], plot: str) -> dict[str, list[tuple[float, float]]]:
    (axes,) = draw(curves, plot).axes
    return {
        str(line.get_label()): [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()]
        for line in axes.lines
        if isinstance(line, Line2D)
    }


def test_the_snapshots_of_a_run_become_a_line_over_images_and_one_over_seconds() -> None:
    # Given two snapshots of a run of 50 images per second, the later one added first, and one of them added twice
    curves: dict[str, Any] = {"runs": {}}
    add(curves, "fast", [record(2000, 1.0), record(1000, 4.0)], 50.0)
    add(curves, "fast", [record(1000, 3.0)], None)
    # Then the newest record of each snapshot is drawn, in order
    assert lines(curves, "fid_by_images")["fast"] == [(1000, 3.0), (2000, 1.0)]
    assert lines(curves, "fid_by_seconds")["fast"] == [(20, 3.0), (40, 1.0)]
    # And the floor is drawn too
    assert {fid for _, fid in lines(curves, "fid_by_images")["real test images"]} == {FLOOR}


def test_figures_of_another_protocol_are_refused() -> None:
    curves: dict[str, Any] = {"runs": {}}
    add(curves, "one", [record(1000, 3.0)], 1.0)
    with pytest.raises(ValueError, match="measured by another protocol"):
        add(curves, "two", [record(1000, 3.0, images=50_000)], 1.0)


def test_the_committed_figures_can_be_drawn_and_their_plots_exist() -> None:
    curves = load(ROOT / CURVES)
    for plot in PLOTS:
        drawn = lines(curves, plot)
        assert drawn.keys() == {*curves["runs"], "real test images"}
        assert (ROOT / IMAGES / f"{plot}.png").is_file()


def test_a_missing_file_has_no_runs(tmp_path: Path) -> None:
    assert load(tmp_path / "none.json") == {"runs": {}}
