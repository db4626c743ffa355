"""A grid of images as buttons: the API sends one PNG, and CSS shows one tile of it in each button."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nicegui.element import Element

from services.dashboard.elements.html import box

OnSelect = Callable[[int], Awaitable[None] | None]


@dataclass(frozen=True)
class ImageGrid:
    """A PNG of `n` tiles in `columns` columns: a path of the API and its query."""

    path: str
    query: Mapping[str, str]
    n: int
    columns: int

    @property
    def rows(self) -> int:
        return math.ceil(self.n / self.columns)

    @property
    def url(self) -> str:
        return f"/files/{self.path}?{urlencode(self.query)}"

    def tile_url(self, index: int, file_format: str = "png") -> str:
        """URL of one generated image as a file of its own: png, webp or jpeg."""
        single = {"n": "1", "columns": "1", "first_index": str(index), "format": file_format}
        return f"/files/{self.path}?{urlencode(dict(self.query) | single)}"

    def tile_style(self, index: int) -> str:
        """CSS variables that show one tile as the background of an element."""
        x, y = index % self.columns, index // self.columns
        return (
            f"--columns: {self.columns}; --rows: {self.rows}; --sheet: url('{self.url}'); "
            f"--x: {_percent(x, self.columns)}; --y: {_percent(y, self.rows)}"
        )


def show_grid(grid: ImageGrid, on_select: OnSelect) -> Element:
    with box("sheet", style=f"--columns: {grid.columns}") as element:
        for index in range(grid.n):
            label = f"{grid.query.get('class', 'image')} {index}: enlarge"
            tile = show_tile(grid, index, label, "tile", tag="button", type="button")
            tile.on("click", _click_handler(on_select, index), args=[])
    return element


def show_tile(grid: ImageGrid, index: int, label: str, classes: str, tag: str = "div", **attributes: Any) -> Element:
    role = {} if tag == "button" else {"role": "img"}
    all_classes = " ".join(dict.fromkeys(["tile", *classes.split()]))
    return box(all_classes, tag, style=grid.tile_style(index), **{"aria-label": label}, **role, **attributes)


def _click_handler(on_select: OnSelect, index: int) -> Callable[[], Awaitable[None]]:
    async def handle() -> None:
        done = on_select(index)
        if done is not None:
            await done

    return handle


def _percent(position: int, count: int) -> str:
    return f"{100 * position / (count - 1):.4f}%" if count > 1 else "0%"
