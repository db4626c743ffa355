"""A walk from one class to another, step by step, where the API can interpolate."""

from __future__ import annotations

from nicegui.element import Element

from kiln._requests import ModelData
from services.dashboard.elements import box, heading, select, slider, text
from services.dashboard.sheets import Sheet, show_sheet, show_tile
from services.dashboard.site import Page

STEPS = 16


class LatentWalk:
    """Two classes and a slider between them. Draws itself where it is made, once there is a model for it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._box = box(tag="section", **{"aria-label": "Between two classes"})
        self._model = ""
        self._ends: tuple[str, str] = ("", "")
        self._at = STEPS // 2

    async def show(self, model: ModelData, seed: int, label: str) -> None:
        """Follows the model, the seed and the class of the page."""
        classes = list(model.manifest["classes"]) if model.manifest["conditional"] else []
        if len(classes) < 2 or not await self.page.site.offers("/interpolate"):
            self._box.clear()
            return
        self._seed = seed
        start = label if label in classes else classes[0]
        if model.id != self._model or self._ends[0] != start:
            self._model = model.id
            other = self._ends[1] if self._ends[1] in classes and self._ends[1] != start else ""
            self._ends = start, other or classes[(classes.index(start) + 1) % len(classes)]
            self._draw(classes)
        await self._show()

    def _draw(self, classes: list[str]) -> None:
        self._box.clear()
        with self._box, box("card"):
            heading("Between two classes")
            with box("row top"):
                select("From", classes, self._ends[0], self._set_start)
                select("To", classes, self._ends[1], self._set_end)
            with box("inspect"):
                self._large = box()
                with box("stack"):
                    self._slider = slider("Step", self._at, self._set_step, low=0, high=STEPS - 1, step=1)
                    self._strip = box()
                    text("The latent goes round the sphere, the class in a straight line.", "p", "help")

    def _sheet(self) -> Sheet:
        start, end = self._ends
        query = {"from": start, "to": end, "steps": str(STEPS), "seed": str(self._seed), "model": self._model}
        return Sheet("interpolate", query, STEPS, STEPS)

    async def _show(self) -> None:
        sheet = self._sheet()
        if await self.page.ask(self.page.site.read(sheet.path, sheet.query)) is None:
            return
        self._strip.clear()
        with self._strip:
            grid = show_sheet(sheet, self._go)
            grid.classes(replace="strip")
            self._tiles = list(grid)
        self._show_step()

    def _show_step(self) -> None:
        self._large.clear()
        with self._large:
            show_tile(self._sheet(), self._at, f"Step {self._at} of {STEPS - 1}", "big")
        for index, tile in enumerate(self._tiles):
            _press(tile, index == self._at)

    def _go(self, index: int) -> None:
        self._at = index
        self._slider.set_value(str(index))
        self._show_step()

    def _set_step(self, written: str) -> None:
        self._at = int(written)
        self._show_step()

    async def _set_start(self, label: str) -> None:
        self._ends = label, self._ends[1]
        await self._show()

    async def _set_end(self, label: str) -> None:
        self._ends = self._ends[0], label
        await self._show()


def _press(tile: Element, is_pressed: bool) -> None:
    tile.props["aria-pressed"] = "true" if is_pressed else "false"
