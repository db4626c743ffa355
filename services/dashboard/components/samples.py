"""The sample grids of a job, with a slider over the training; every grid shows the same latents."""

from __future__ import annotations

from collections.abc import Sequence

from services.dashboard.connection import REQUEST_ERRORS
from services.dashboard.elements.fields import Field, slider
from services.dashboard.elements.html import box, heading, image, link, text
from services.dashboard.page import Page
from services.dashboard.text import format_count


class Samples:
    def __init__(self, page: Page, job_id: str) -> None:
        self.page, self._job_id = page, job_id
        self._positions: Sequence[int] = []  # images seen at each grid
        self._index = -1  # of the grid that is shown
        self._slider: Field | None = None
        with box("card", tag="section", **{"aria-label": "Samples"}):
            with box("row between"):
                heading("Samples")
                self._strip = link("Strip of five", f"/files/jobs/{job_id}/samples.png?count=5", "button small")
            self._empty = text("No samples yet. The first grid arrives with the first snapshot.", "p", "soft")
            self._image = image("", "", "pixels grid-image")
            self._caption = text("", "p", "help", role="status")
            self._slider_box = box()
        self._show()

    async def refresh(self) -> None:
        """Reads the list of grids. The newest one is shown, unless the user has moved the slider to an older one."""
        try:
            positions = await self.page.kiln.jobs.sample_positions(self._job_id)
        except REQUEST_ERRORS as error:
            self.page.show_error(error)
            return
        if positions == self._positions:
            return
        was_newest = self._index == len(self._positions) - 1
        self._positions = positions
        self._index = len(positions) - 1 if was_newest else min(self._index, len(positions) - 1)
        self._show()

    def _show(self) -> None:
        has_samples = bool(self._positions)
        self._empty.set_visibility(not has_samples)
        for part in (self._image, self._caption, self._strip):
            part.set_visibility(has_samples)
        if not has_samples:
            return
        nimg = self._positions[self._index]
        alt = f"Grid of 100 generated images after {nimg:,} training images"
        self._image.props.update({"src": f"/files/jobs/{self._job_id}/samples/{nimg}.png", "alt": alt})
        self._caption.text = f"After {format_count(nimg)} training images. Every grid shows the same latents."
        self._show_slider()

    def _show_slider(self) -> None:
        last = len(self._positions) - 1
        if last < 1:
            return
        if self._slider is None:
            with self._slider_box:
                self._slider = slider("Training progress", self._index, self._select, low=0, high=last, step=1)
        self._slider.control.props["max"] = str(last)
        self._slider.set_value(str(self._index))
        self._slider.control.props["aria-valuetext"] = self._caption.text

    def _select(self, value: str) -> None:
        self._index = int(value)
        self._show()
