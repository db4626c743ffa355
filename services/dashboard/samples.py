"""The sample grids of a job, with a slider over the training: the same latents all along."""

from __future__ import annotations

from kiln import _requests as wire
from services.dashboard import sentences
from services.dashboard.elements import Field, box, heading, link, picture, slider, text
from services.dashboard.site import FAILURES, Page


class Samples:
    def __init__(self, page: Page, job_id: str) -> None:
        self.page, self._job_id = page, job_id
        self._positions: list[int] = []
        self._at = -1  # index of what is shown
        self._slider: Field | None = None
        with box("card", tag="section", **{"aria-label": "Samples"}):
            with box("row between"):
                heading("Samples")
                self._strip = link("Strip", f"/files/jobs/{job_id}/samples.png?count=5", "button small")
            self._empty = text("No grid yet; the first one comes with the first snapshot.", "p", "soft")
            self._image = picture("", "", "pixels grid-image")
            self._caption = text("", "p", "help", role="status")
            self._slider_box = box()
        self._show()

    async def look(self) -> None:
        """Looks for new grids. Who looks at the newest goes on to the new one; who looks back is left in peace."""
        try:
            found = [int(row["nimg"]) for row in await self.page.kiln.send(wire.list_samples(self._job_id))]
        except FAILURES as error:
            self.page.complain(error)
            return
        if found == self._positions:
            return
        was_newest = self._at == len(self._positions) - 1
        self._positions = found
        self._at = len(found) - 1 if was_newest else min(self._at, len(found) - 1)
        self._show()

    def _show(self) -> None:
        is_there = bool(self._positions)
        self._empty.set_visibility(not is_there)
        for part in (self._image, self._caption, self._strip):
            part.set_visibility(is_there)
        if not is_there:
            return
        nimg = self._positions[self._at]
        label = f"A hundred images after {nimg:,} images of training"
        self._image.props.update({"src": f"/files/jobs/{self._job_id}/samples/{nimg}.png", "alt": label})
        self._caption.text = f"After {sentences.count(nimg)} images; the same latents all along."
        self._show_slider()

    def _show_slider(self) -> None:
        last = len(self._positions) - 1
        if last < 1:
            return
        if self._slider is None:
            with self._slider_box:
                self._slider = slider("Training time", self._at, self._go, low=0, high=last, step=1)
        self._slider.control.props["max"] = str(last)
        self._slider.set_value(str(self._at))
        self._slider.control.props["aria-valuetext"] = self._caption.text

    def _go(self, written: str) -> None:
        self._at = int(written)
        self._show()
