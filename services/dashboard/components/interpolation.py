"""The interpolation card: images between two classes, from GET /interpolate, with a slider over the steps."""

from __future__ import annotations

from kiln import ModelData
from services.dashboard.elements.fields import select, slider
from services.dashboard.elements.html import box, heading, text
from services.dashboard.elements.image_grid import ImageGrid, show_grid, show_tile
from services.dashboard.page import Page

STEPS = 16


class Interpolation:
    """Two selects and a slider. Drawn when a class-conditional model with at least two classes is selected."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._box = box(tag="section", **{"aria-label": "Interpolation"})
        self._model = ""
        self._ends: tuple[str, str] = ("", "")
        self._step = STEPS // 2

    async def show(self, model: ModelData, seed: int, label: str) -> None:
        """Shows the interpolation for the page's model, seed and class."""
        classes = list(model.manifest["classes"]) if model.manifest["conditional"] else []
        if len(classes) < 2 or not await self.page.connection.has_route("/interpolate"):
            self._box.clear()
            return
        self._seed = seed
        start = label if label in classes else classes[0]
        if model.id != self._model or self._ends[0] != start:
            self._model = model.id
            other = self._ends[1] if self._ends[1] in classes and self._ends[1] != start else ""
            self._ends = start, other or classes[(classes.index(start) + 1) % len(classes)]
            self._draw(classes)
        await self._show_images()

    def _draw(self, classes: list[str]) -> None:
        self._box.clear()
        with self._box, box("card"):
            heading("Interpolation between two classes")
            with box("row top"):
                select("From", classes, self._ends[0], self._set_start)
                select("To", classes, self._ends[1], self._set_end)
            with box("inspect"):
                self._large = box()
                with box("stack"):
                    self._slider = slider("Step", self._step, self._set_step, low=0, high=STEPS - 1, step=1)
                    self._strip = box()
                    text("Spherical interpolation of the latent, linear interpolation of the class.", "p", "help")

    def _grid(self) -> ImageGrid:
        start, end = self._ends
        query = {"from": start, "to": end, "steps": str(STEPS), "seed": str(self._seed), "model": self._model}
        return ImageGrid("interpolate", query, STEPS, STEPS)

    async def _show_images(self) -> None:
        grid = self._grid()
        if await self.page.request(self.page.connection.read_file(grid.path, grid.query)) is None:
            return
        self._strip.clear()
        with self._strip:
            strip = show_grid(grid, self._select_step)
            strip.classes(replace="strip")
            self._tiles = list(strip)
        self._show_step()

    def _show_step(self) -> None:
        self._large.clear()
        with self._large:
            show_tile(self._grid(), self._step, f"Step {self._step} of {STEPS - 1}", "big")
        for index, tile in enumerate(self._tiles):
            tile.props["aria-pressed"] = "true" if index == self._step else "false"

    def _select_step(self, index: int) -> None:
        self._step = index
        self._slider.set_value(str(index))
        self._show_step()

    def _set_step(self, value: str) -> None:
        self._step = int(value)
        self._show_step()

    async def _set_start(self, label: str) -> None:
        self._ends = label, self._ends[1]
        await self._show_images()

    async def _set_end(self, label: str) -> None:
        self._ends = self._ends[0], label
        await self._show_images()
