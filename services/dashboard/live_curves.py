"""The curves of a job as they grow: losses, accuracies of the discriminator, figures of quality; and all the rest."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from services.dashboard.curves import ACCURACIES, FIGURES, LOSSES, NAMES, Row, chart, points
from services.dashboard.elements import box, curves, heading, slider, switch, text

APART = {*LOSSES, *ACCURACIES, *FIGURES, "nimg"}


class LiveCurves:
    def __init__(self, label: str) -> None:
        self._rows: list[Row] = []
        self._charts: dict[str, tuple[ui.echart, tuple[str, ...]]] = {}
        self._smoothing, self._is_log = 0.0, False
        with box("card", tag="section", **{"aria-label": label}):
            with box("row between"):
                heading("Losses")
                with box("row"):
                    slider("Smoothing", 0.0, self._smooth, low=0.0, high=0.98, step=0.02)
                    switch("Log scale", False, self._set_log)
            self._empty = text("No metrics yet; the first row comes after the first tick.", "p", "soft")
            self._losses = box()
            self._others = box("stack")
            with box("", "details") as self._more:
                text("More curves", "summary")
                self._rest = box("stack")
            self._more.set_visibility(False)

    def add(self, rows: Sequence[Row]) -> None:
        """New rows; a row that is known already, because a trainer took up its checkpoint, takes its place again."""
        if not rows:
            return
        known = {row["nimg"]: row for row in self._rows} | {row["nimg"]: row for row in rows}
        self._rows = [known[nimg] for nimg in sorted(known)]
        self._draw()

    def _smooth(self, written: str) -> None:
        self._smoothing = float(written)
        self._draw()

    def _set_log(self, is_log: bool) -> None:
        self._is_log = is_log
        self._draw()

    def _draw(self) -> None:
        self._empty.set_visibility(not self._rows)
        there = {name for row in self._rows for name in row}
        self._chart("losses", [name for name in LOSSES if name in there], self._losses, "")
        accuracies = [name for name in ACCURACIES if name in there]
        self._chart("accuracy of the discriminator", accuracies, self._others, "Accuracy of the discriminator")
        for name in FIGURES:
            if name in there:
                self._chart(NAMES[name], [name], self._others, NAMES[name])
        for name in sorted(there - APART):
            self._more.set_visibility(True)
            self._chart(name, [name], self._rest, name.replace("_", " "))

    def _chart(self, key: str, names: Sequence[str], place: ui.element, title: str) -> None:
        if not names:
            return
        series = {NAMES.get(name, name.replace("_", " ")): points(self._rows, name) for name in names}
        options = chart(series, key, smoothing=self._smoothing, is_log=self._is_log and key == "losses")
        if key not in self._charts or self._charts[key][1] != tuple(names):
            with place:
                if title:
                    heading(title, 3)
                drawn = curves(options, f"Curves: {key}", "chart" if key == "losses" else "chart small")
            self._charts[key] = (drawn, tuple(names))
        else:
            drawn, _ = self._charts[key]
            drawn.options.clear()
            drawn.options.update(options)
            drawn.update()
