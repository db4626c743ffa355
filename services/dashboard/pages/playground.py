"""/: the playground: choose a model, a class and a seed, and see generated images."""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from kiln import ModelData
from services.dashboard.components.image_details import ImageDetails
from services.dashboard.components.interpolation import Interpolation
from services.dashboard.connection import Connection
from services.dashboard.elements.fields import Field, number_field, radio_chips, select, slider, text_field
from services.dashboard.elements.html import box, button, copyable_code, text
from services.dashboard.elements.image_grid import ImageGrid, show_grid
from services.dashboard.page import Page, open_page, page_at
from services.dashboard.text import format_count

ALL_CLASSES, NO_CLASS = "all", "any"
MAX_IMAGES = 256
IMAGES_PER_CLASS = 8  # in each row when all classes are shown
MAX_TRUNCATION = 3.0  # at this end of the slider, truncation is off
TRUNCATION_HELP = "Largest absolute value in the latent. Smaller values give less variety and fewer failures."


def register(connection: Connection) -> None:
    @page_at("/")
    async def playground(request: Request) -> None:
        page = await open_page(connection, "Playground", "/")
        await page.build(Playground(page, request.query_params).draw)


@dataclass(frozen=True)
class Selection:
    """What is shown. The same selection always gives the same images, so the page's address can be shared."""

    model: str
    label: str
    n: int
    seed: int
    truncation: float | None

    @property
    def query(self) -> dict[str, str]:
        """Query of GET /generate."""
        label = "" if self.label == NO_CLASS else self.label
        values = {
            "model": self.model, "class": label, "n": self.n, "seed": self.seed, "truncation": self.truncation,
        }  # fmt: skip
        return {name: str(value) for name, value in values.items() if value not in (None, "")}


class Playground:
    def __init__(self, page: Page, query: Mapping[str, str]) -> None:
        self.page, self._query = page, query
        self._requests = 0

    async def draw(self) -> None:
        self.models = {model.id: model for model in await self.page.kiln.models.list() if not model.refused}
        text("Choose a class. The same seed always gives the same images.", "p", "lead")
        if not self.models:
            self.page.empty_state(
                "No models yet. The preset `tiny` trains one in 1 to 10 minutes.", "New job", "/jobs?preset=tiny"
            )
            self.page.poll(self._reload_with_first_model)
            return
        self.selection = self._first_selection()
        with box("side"):
            with box("card stack controls"):
                self._draw_controls()
            with box("stack"):
                self._images = box("sheets", tag="section", **{"aria-label": "Images", "aria-live": "polite"})
                with box("stack tight", tag="section", **{"aria-label": "Code for these images"}):
                    self._curl = copyable_code("curl", "")
                    self._python = copyable_code("Python", "")
        self._interpolation = Interpolation(self.page)
        self._details = ImageDetails()
        self.page.run_in_background(self._show)

    async def _reload_with_first_model(self) -> None:
        if await self.page.kiln.models.list():
            ui.navigate.reload()

    def _first_selection(self) -> Selection:
        """From the page's address; defaults are the default model and its first class."""
        query = self._query
        by_alias = {alias: model.id for model in self.models.values() for alias in model.aliases}
        named, default = query.get("model", ""), by_alias.get("default", next(iter(self.models)))
        model = named if named in self.models else by_alias.get(named, default)
        classes = self._classes(model)
        label = query.get("class", classes[0])
        return Selection(
            model, label if label in (*classes, ALL_CLASSES) else classes[0],
            _parse_int(query.get("n", ""), 16, MAX_IMAGES), _parse_int(query.get("seed", ""), 7, 2**63 - 1),
            _parse_truncation(query.get("truncation", "")),
        )  # fmt: skip

    def _classes(self, model: str) -> Sequence[str]:
        """The classes that the model can generate; an unconditional model has NO_CLASS too."""
        manifest = self.models[model].manifest
        return list(manifest["classes"]) if manifest["conditional"] else [NO_CLASS, *manifest["classes"]]

    async def _change(self, **changes: object) -> None:
        self.selection = replace(self.selection, **changes)  # type: ignore[arg-type]
        await self._show()

    # --- Controls ----------------------------------------------------------------------------------------------------

    def _draw_controls(self) -> None:
        selection = self.selection
        names = {model.id: _title(model) for model in self.models.values()}
        select("Model", names, selection.model, self._set_model)
        self._summary = text("", "p", "help")
        self._class_box = box()
        self._draw_classes()
        number_field("Images", selection.n, self._set_n, low=1, high=MAX_IMAGES, step=1, help_text=f"1 to {MAX_IMAGES}")
        with box("seed"):
            self._seed: Field = text_field("Seed", str(selection.seed), self._set_seed)
            button("New seed", self._draw_new_seed)
        self._truncation = slider(
            self._truncation_label(), selection.truncation or MAX_TRUNCATION, self._set_truncation,
            low=0.2, high=MAX_TRUNCATION, step=0.1, help_text=TRUNCATION_HELP,
        )  # fmt: skip

    def _draw_classes(self) -> None:
        manifest = self.models[self.selection.model].manifest
        self._summary.text = f"Preset {manifest['preset']}, {format_count(manifest['images_seen'])} training images"
        self._class_box.clear()
        with self._class_box:
            classes = self._classes(self.selection.model)
            # An unconditional model needs about 100 draws per image of a class: too slow for all classes at once.
            options = classes if NO_CLASS in classes else [*classes, ALL_CLASSES]
            radio_chips("Class", options, self.selection.label, self._set_class)
            if NO_CLASS in classes:
                text("This model is unconditional. A classifier selects the images of a class.", "p", "help")

    async def _set_model(self, model: str) -> None:
        classes = self._classes(model)
        label = self.selection.label if self.selection.label in classes else classes[0]
        self.selection = replace(self.selection, model=model, label=label)
        self._draw_classes()
        await self._show()

    async def _set_class(self, label: str) -> None:
        await self._change(label=label)

    async def _set_n(self, n: str) -> None:
        await self._change(n=_parse_int(n, self.selection.n, MAX_IMAGES, low=1))

    async def _set_seed(self, seed: str) -> None:
        is_valid = seed.isdecimal() and int(seed) < 2**63
        self._seed.show_error("" if is_valid else "Enter a whole number, 0 or greater.")
        if is_valid:
            await self._change(seed=int(seed))

    async def _draw_new_seed(self) -> None:
        seed = secrets.randbelow(10**6)
        self._seed.set_value(str(seed))
        self._seed.show_error("")
        await self._change(seed=seed)

    async def _set_truncation(self, entered: str) -> None:
        value = _parse_truncation(entered)
        await self._change(truncation=None if value is None or value >= MAX_TRUNCATION else value)
        self._truncation.label.text = self._truncation_label()

    def _truncation_label(self) -> str:
        value = self.selection.truncation
        return "Truncation: off" if value is None else f"Truncation: {value:g}"

    # --- Images ------------------------------------------------------------------------------------------------------

    def _grids(self) -> list[ImageGrid]:
        """One grid, or one row per class when all classes are selected."""
        selection = self.selection
        if selection.label != ALL_CLASSES:
            columns = min(8, math.ceil(math.sqrt(selection.n)))
            query = selection.query | {"columns": str(columns)}
            return [ImageGrid("generate", query, selection.n, columns)]
        n = min(selection.n, IMAGES_PER_CLASS)
        rows = (replace(selection, label=label, n=n).query for label in self._classes(selection.model))
        return [ImageGrid("generate", query | {"columns": str(n)}, n, n) for query in rows]

    async def _show(self) -> None:
        """Reads the images here first, so that errors can be shown; the browser then gets them from the cache."""
        self._requests += 1
        request, grids, note = self._requests, self._grids(), ""
        for grid in grids:
            response = await self.page.retry_until_ready(self.page.connection.read_file, grid.path, grid.query)
            if response is None or request != self._requests:  # refused, or superseded by a newer selection
                return
            note = _sampling_note(response.headers)
        self._draw_grids(grids, note)
        self._show_code()
        ui.navigate.history.replace("/?" + urlencode(self.selection.query))
        await self._interpolation.show(
            self.models[self.selection.model], self.selection.seed, self.selection.label
        )  # fmt: skip

    def _draw_grids(self, grids: Sequence[ImageGrid], note: str) -> None:
        model = self.models[self.selection.model]
        self._images.clear()
        with self._images:
            for grid in grids:

                def enlarge(index: int, grid: ImageGrid = grid) -> None:
                    self._details.show(grid, index, model)

                if len(grids) == 1:
                    show_grid(grid, enlarge)
                else:
                    with box("class-row"):
                        text(grid.query["class"], "span", "eyebrow")
                        show_grid(grid, enlarge)
            if note:
                text(note, "p", "help")

    def _show_code(self) -> None:
        selection, url = self.selection, self.page.connection.url
        if selection.label == ALL_CLASSES:
            selection = replace(selection, label=self._classes(selection.model)[0])
        self._curl.text = f"curl {shlex.quote(f'{url}/generate?{urlencode(selection.query)}')} -o images.png"
        options = {name: value for name, value in selection.query.items() if name != "class"}
        options["model"] = repr(selection.model)
        arguments = [f"{name}={value}" for name, value in options.items()]
        if "class" in selection.query:
            arguments.insert(0, repr(selection.label))
        self._python.text = f"from kiln import Kiln\nimages = Kiln({url!r}).generate({', '.join(arguments)})"


def _title(model: ModelData) -> str:
    aliases = ", ".join(model.aliases)
    return f"{model.id} ({aliases})" if aliases else model.id


def _sampling_note(headers: Mapping[str, str]) -> str:
    """How rejection sampling found the images of a class, if it did."""
    if headers.get("x-kiln-class-method") != "classifier":
        return ""
    note = f"Selected by the classifier from {headers.get('x-kiln-draws', 'several')} draws"
    confidence = headers.get("x-kiln-confidence")
    return f"{note}. Confidence: {confidence}." if confidence else f"{note}."


def _parse_int(entered: str, default: int, high: int, low: int = 0) -> int:
    return min(max(int(entered), low), high) if entered.isdecimal() else default


def _parse_truncation(entered: str) -> float | None:
    try:
        value = float(entered)
    except ValueError:
        return None
    return value if 0.05 <= value <= 10 else None
