"""Sheets of images as a grid of buttons: one picture from the API, each button a window onto one of its tiles."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nicegui.element import Element

from services.dashboard.elements import box

OnPick = Callable[[int], Awaitable[None] | None]


@dataclass(frozen=True)
class Sheet:
    """n tiles in so many columns, as the API answers to the query."""

    path: str
    query: Mapping[str, str]
    n: int
    columns: int

    @classmethod
    def generated(cls, query: Mapping[str, str], n: int, columns: int) -> Sheet:
        return cls("generate", query, n, columns)

    @property
    def rows(self) -> int:
        return math.ceil(self.n / self.columns)

    @property
    def url(self) -> str:
        return f"/files/{self.path}?{urlencode(self.query)}"

    def url_of(self, index: int) -> str:
        """One image of it by itself."""
        alone = {"n": "1", "columns": "1", "first_index": str(index)}
        return f"/files/{self.path}?{urlencode(dict(self.query) | alone)}"

    def window(self, index: int) -> str:
        """CSS that shows one tile in any element."""
        x, y = index % self.columns, index // self.columns
        return (
            f"--columns: {self.columns}; --rows: {self.rows}; --sheet: url('{self.url}'); "
            f"--x: {_percent(x, self.columns)}; --y: {_percent(y, self.rows)}"
        )


def show_sheet(sheet: Sheet, on_pick: OnPick) -> Element:
    with box("sheet", style=f"--columns: {sheet.columns}") as grid:
        for index in range(sheet.n):
            label = f"{sheet.query.get('class', 'image')} {index}: look closer"
            tile = show_tile(sheet, index, label, "tile", tag="button", type="button")
            tile.on("click", _picks(on_pick, index), args=[])
    return grid


def show_tile(sheet: Sheet, index: int, label: str, classes: str, tag: str = "div", **attributes: Any) -> Element:
    role = {} if tag == "button" else {"role": "img"}
    both = " ".join(dict.fromkeys(["tile", *classes.split()]))
    return box(both, tag, style=sheet.window(index), **{"aria-label": label}, **role, **attributes)


def _picks(on_pick: OnPick, index: int) -> Callable[[], Awaitable[None]]:
    async def pick() -> None:
        done = on_pick(index)
        if done is not None:
            await done

    return pick


def _percent(at: int, count: int) -> str:
    return f"{100 * at / (count - 1):.4f}%" if count > 1 else "0%"
