"""The metrics of a running job as charts that grow: losses, discriminator accuracy, evaluation figures, the rest."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui
from nicegui.element import Element

from services.dashboard.elements.charts import ACCURACIES, FIGURES, LABELS, LOSSES, Row, line_chart, points
from services.dashboard.elements.fields import checkbox, slider
from services.dashboard.elements.html import box, chart, heading, text

SHOWN_APART = {*LOSSES, *ACCURACIES, *FIGURES, "nimg"}


class LiveCurves:
    def __init__(self, label: str) -> None:
        self._rows: list[Row] = []
        self._charts: dict[str, tuple[ui.echart, tuple[str, ...]]] = {}  # title -> the chart and its metrics
        self._smoothing, self._is_log = 0.0, False
        with box("card", tag="section", **{"aria-label": label}):
            with box("row between"):
                heading("Losses")
                with box("row"):
                    slider("Smoothing", 0.0, self._set_smoothing, low=0.0, high=0.98, step=0.02)
                    checkbox("Log scale", False, self._set_log)
            self._empty = text("No metrics yet. The first values arrive after the first tick.", "p", "soft")
            self._losses = box()
            self._figures = box("stack")
            with box("", "details") as self._more:
                text("More metrics", "summary")
                self._others = box("stack")
            self._more.set_visibility(False)

    def add(self, rows: Sequence[Row]) -> None:
        """Adds rows; a row with a known `nimg` replaces it, as after a restart from a checkpoint."""
        if not rows:
            return
        by_nimg = {row["nimg"]: row for row in self._rows} | {row["nimg"]: row for row in rows}
        self._rows = [by_nimg[nimg] for nimg in sorted(by_nimg)]
        self._draw()

    def _set_smoothing(self, value: str) -> None:
        self._smoothing = float(value)
        self._draw()

    def _set_log(self, is_log: bool) -> None:
        self._is_log = is_log
        self._draw()

    def _draw(self) -> None:
        self._empty.set_visibility(not self._rows)
        names = {name for row in self._rows for name in row}
        self._draw_chart("Losses", [name for name in LOSSES if name in names], self._losses)
        accuracies = [name for name in ACCURACIES if name in names]
        self._draw_chart("Accuracy of the discriminator", accuracies, self._figures)
        for name in FIGURES:
            if name in names:
                self._draw_chart(LABELS[name], [name], self._figures)
        for name in sorted(names - SHOWN_APART):
            self._more.set_visibility(True)
            self._draw_chart(_label(name), [name], self._others)

    def _draw_chart(self, title: str, names: Sequence[str], parent: Element) -> None:
        if not names:
            return
        is_losses = title == "Losses"
        series = {_label(name): points(self._rows, name) for name in names}
        options = line_chart(series, title, smoothing=self._smoothing, is_log=self._is_log and is_losses)
        if title in self._charts and self._charts[title][1] == tuple(names):
            existing, _ = self._charts[title]
            existing.options.clear()
            existing.options.update(options)
            existing.update()
            return
        with parent:
            if not is_losses:  # the card has this heading
                heading(title, 3)
            element = chart(options, f"Chart: {title}", "chart" if is_losses else "chart small")
        self._charts[title] = (element, tuple(names))


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))
