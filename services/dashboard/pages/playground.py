"""The first page: a model, a class, a seed, and images at once."""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from kiln import _requests as wire
from kiln._requests import ModelData
from services.dashboard import sentences
from services.dashboard.elements import (
    Field,
    box,
    button,
    choice,
    close_dialog,
    code,
    dialog,
    heading,
    line,
    link,
    number,
    open_dialog,
    select,
    slider,
    text,
)  # fmt: skip
from services.dashboard.latent_walk import LatentWalk
from services.dashboard.sheets import Sheet, show_sheet, show_tile
from services.dashboard.site import Page, Site

ALL, ANY = "all", "any"
MOST = 256
NO_TRUNCATION = 3.0  # standard deviations; so few values lie beyond that the slider's end means "off"
TRUNCATION_HELP = "Latents no further from zero than that: less variety, fewer failures."
NEIGHBOURS = 10
PER_CLASS = 8  # images in a row when all classes are shown


def register(site: Site) -> None:
    @site.page("/")
    async def playground(request: Request) -> None:
        page = await site.open("Playground", "/")
        await page.load(Playground(page, request.query_params).build)


@dataclass(frozen=True)
class Wish:
    """What is to be seen. The same wish gives the same images, so it makes a link that can be kept."""

    model: str
    label: str
    n: int
    seed: int
    truncation: float | None

    @property
    def query(self) -> dict[str, str]:
        asked = {"model": self.model, "class": "" if self.label == ANY else self.label, "n": self.n, "seed": self.seed}
        given = asked | {"truncation": self.truncation}
        return {name: str(value) for name, value in given.items() if value not in (None, "")}


class Playground:
    def __init__(self, page: Page, query: Mapping[str, str]) -> None:
        self.page, self._query = page, query
        self._drawn = 0

    async def build(self) -> None:
        self.models = {model.id: model for model in await self.page.kiln.send(wire.list_models()) if not model.refused}
        text("Pick a class and look. The same seed always gives the same images.", "p", "lead")
        if not self.models:
            self.page.empty("No model yet. The preset “tiny” makes one in a few minutes.", "Train one", "/jobs")
            self.page.keep_fresh(self._until_there_is_one)
            return
        self.wish = self._first_wish()
        with box("side"):
            with box("card stack controls"):
                self._draw_controls()
            with box("stack"):
                self._images = box("sheets", tag="section", **{"aria-label": "Images", "aria-live": "polite"})
                self._lines()
        self._walk = LatentWalk(self.page)
        self._inspector = dialog("One image", "wide")
        with self._inspector:
            self._inside = box("stack")
        self.page.start(self._show)

    async def _until_there_is_one(self) -> None:
        if await self.page.kiln.send(wire.list_models()):
            ui.navigate.reload()

    # --- What is wished for ------------------------------------------------------------------------------------------

    def _first_wish(self) -> Wish:
        """As the address says, and the default model's first class for the rest."""
        query = self._query
        by_alias = {alias: model.id for model in self.models.values() for alias in model.aliases}
        asked, default = query.get("model", ""), by_alias.get("default", next(iter(self.models)))
        model = asked if asked in self.models else by_alias.get(asked, default)
        classes = self._classes(model)
        label = query.get("class", classes[0])
        return Wish(
            model, label if label in (*classes, ALL) else classes[0], _whole(query.get("n", ""), 16, MOST),
            _whole(query.get("seed", ""), 7, 2**63 - 1), _decimal(query.get("truncation", "")),
        )  # fmt: skip

    def _classes(self, model: str) -> Sequence[str]:
        """What can be asked of it; of a model that knows no classes also ANY, and then nothing is judged."""
        manifest = self.models[model].manifest
        return list(manifest["classes"]) if manifest["conditional"] else [ANY, *manifest["classes"]]

    async def _change(self, **changes: object) -> None:
        self.wish = replace(self.wish, **changes)  # type: ignore[arg-type]
        await self._show()

    # --- Controls ----------------------------------------------------------------------------------------------------

    def _draw_controls(self) -> None:
        wish = self.wish
        names = {model.id: _title(model) for model in self.models.values()}
        select("Model", names, wish.model, self._set_model)
        self._about = box()
        self._class_box = box()
        self._draw_classes()
        number("Images", wish.n, self._set_n, low=1, high=MOST, step=1, help_text=f"of each class, up to {MOST}")
        with box("seed"):
            self._seed: Field = line("Seed", str(wish.seed), self._set_seed)
            again = button("Draw again", self._draw_again, title="Another seed")
            again.props["aria-label"] = "Draw again with another seed"
        self._truncation = slider(
            self._truncation_label(), wish.truncation or NO_TRUNCATION, self._set_truncation,
            low=0.2, high=NO_TRUNCATION, step=0.1, help_text=TRUNCATION_HELP,
        )  # fmt: skip

    def _draw_classes(self) -> None:
        self._class_box.clear()
        self._about.clear()
        manifest = self.models[self.wish.model].manifest
        with self._about:
            text(f"{manifest['preset']}, after {sentences.count(manifest['images_seen'])} images", "p", "help")
        with self._class_box:
            classes = self._classes(self.wish.model)
            # Of ten classes from a model that knows none, each would take a hundred draws an image.
            choice("Class", [*classes, *([ALL] if ANY not in classes else [])], self.wish.label, self._set_class)
            if ANY in classes:
                text("It knows no classes; a classifier picks them out of what it draws.", "p", "help")

    async def _set_model(self, model: str) -> None:
        classes = self._classes(model)
        keeps = self.wish.label in classes
        self.wish = replace(self.wish, model=model, label=self.wish.label if keeps else classes[0])
        self._draw_classes()
        await self._show()

    async def _set_class(self, label: str) -> None:
        await self._change(label=label)

    async def _set_n(self, n: str) -> None:
        await self._change(n=_whole(n, self.wish.n, MOST, low=1))

    async def _set_seed(self, seed: str) -> None:
        is_seed = seed.isdecimal() and int(seed) < 2**63
        self._seed.complain("" if is_seed else "A seed is a whole number from 0 on.")
        if is_seed:
            await self._change(seed=int(seed))

    async def _draw_again(self) -> None:
        seed = secrets.randbelow(10**6)
        self._seed.set_value(str(seed))
        self._seed.complain("")
        await self._change(seed=seed)

    async def _set_truncation(self, truncation: str) -> None:
        value = _decimal(truncation)
        await self._change(truncation=None if value is None or value >= NO_TRUNCATION else value)
        self._truncation.label.text = self._truncation_label()

    def _truncation_label(self) -> str:
        return "Truncation: off" if self.wish.truncation is None else f"Truncation: {self.wish.truncation:g}"

    # --- Images ------------------------------------------------------------------------------------------------------

    def _sheets(self) -> list[Sheet]:
        wish = self.wish
        if wish.label != ALL:
            columns = min(8, math.ceil(math.sqrt(wish.n)))
            return [Sheet.generated(wish.query | {"columns": str(columns)}, wish.n, columns)]
        n = min(wish.n, PER_CLASS)
        rows = (replace(wish, label=label, n=n).query for label in self._classes(wish.model))
        return [Sheet.generated(query | {"columns": str(n)}, n, n) for query in rows]

    async def _show(self) -> None:
        """Asks for the images first, so that what goes wrong can be said; then the browser gets them."""
        self._drawn += 1
        drawing, sheets = self._drawn, self._sheets()
        told = ""
        for sheet in sheets:
            answer = await self.page.insist(self.page.site.read, sheet.path, sheet.query)
            if answer is None or drawing != self._drawn:  # refused, or something else was asked for meanwhile
                return
            told = _method(answer.headers)
        self._draw_sheets(sheets, told)
        self._tell_lines()
        ui.navigate.history.replace("/?" + urlencode(self.wish.query))
        await self._walk.show(self.models[self.wish.model], self.wish.seed, self.wish.label)

    def _draw_sheets(self, sheets: Sequence[Sheet], told: str) -> None:
        self._images.clear()
        with self._images:
            for sheet in sheets:
                if len(sheets) == 1:
                    show_sheet(sheet, lambda index, sheet=sheet: self._inspect(sheet, index))  # type: ignore[misc]
                else:
                    with box("class-row"):
                        text(sheet.query["class"], "span", "eyebrow")
                        show_sheet(sheet, lambda index, sheet=sheet: self._inspect(sheet, index))  # type: ignore[misc]
            if told:
                text(told, "p", "help")

    def _lines(self) -> None:
        with box("stack tight", tag="section", **{"aria-label": "The same from elsewhere"}):
            _, self._curl = code("curl", "")
            _, self._python = code("Python", "")

    def _tell_lines(self) -> None:
        wish = self.wish
        label = wish.label if wish.label != ALL else self._classes(wish.model)[0]
        query = replace(wish, label=label).query
        self._curl.text = f"curl {shlex.quote(f'{self.page.site.url}/generate?{urlencode(query)}')} -o images.png"
        options = {name: value for name, value in query.items() if name != "class"}
        options["model"] = repr(wish.model)
        quoted = ", ".join(f"{name}={value}" for name, value in options.items())
        class_ = f"{label!r}, " if label else ""
        self._python.text = f"images = Kiln({self.page.site.url!r}).generate({class_}{quoted})"

    # --- One image ---------------------------------------------------------------------------------------------------

    def _inspect(self, sheet: Sheet, index: int) -> None:
        self._inside.clear()
        with self._inside:
            self._draw_inspection(sheet, index)
        open_dialog(self._inspector)

    def _draw_inspection(self, sheet: Sheet, index: int) -> None:
        query, manifest = sheet.query, self.models[self.wish.model].manifest
        with box("inspect"):
            show_tile(sheet, index, f"Image {index}, enlarged", "big")
            with box("stack"):
                facts = {
                    "Class": query.get("class", "none"), "Seed": query["seed"], "Number": f"{index} of this seed",
                    "Truncation": query.get("truncation", "off"), "Model": query["model"],
                    "Generator": manifest["files"]["generator.onnx"][:16] + "…",
                }  # fmt: skip
                with box("facts", "dl"):
                    for name, value in facts.items():
                        text(name, "dt")
                        text(value, "dd")
                with box("row"):
                    name = f"{query.get('class', 'image')}-{query['seed']}-{index}.png"
                    link("Download PNG", sheet.url_of(index), "button primary", download=name)
                    button("Close", lambda: close_dialog(self._inspector), "quiet")
        if ANY not in self._classes(self.wish.model):  # else the class decides which latents are looked at
            self._draw_kin(sheet, index)
            self._draw_neighbours(sheet, index)

    def _draw_neighbours(self, sheet: Sheet, index: int) -> None:
        """A few steps from this latent towards each of some others: the nearer, the more alike."""
        heading("Its neighbours in latent space", 3)
        text("To the left this image; to the right, the way to three others of this seed.", "p", "help")
        query = sheet.query
        for other in [(index + ahead) % max(sheet.n, 4) for ahead in (1, 2, 3)]:
            way = {
                "from": query["class"], "to": query["class"], "from_index": str(index), "to_index": str(other),
                "steps": str(NEIGHBOURS), "seed": query["seed"], "model": query["model"],
                "truncation": query.get("truncation", ""),
            }  # fmt: skip
            strip = Sheet("interpolate", {name: value for name, value in way.items() if value}, NEIGHBOURS, NEIGHBOURS)
            with box("strip"):
                for step in range(NEIGHBOURS):
                    show_tile(strip, step, f"{step} steps towards image {other}", "tile")

    def _draw_kin(self, sheet: Sheet, index: int) -> None:
        """The same latent in the other classes."""
        heading("The same latent in every class", 3)
        with box("strip"):
            for label in self._classes(self.wish.model):
                kin = replace(sheet, query={**sheet.query, "class": label})
                show_tile(kin, index, label, "tile", title=label)


def _title(model: ModelData) -> str:
    named = ", ".join(model.aliases)
    return f"{model.id} ({named})" if named else model.id


def _method(headers: Mapping[str, str]) -> str:
    """How images of a class came from a model that knows none."""
    if headers.get("x-kiln-class-method") != "classifier":
        return ""
    draws, confidence = headers.get("x-kiln-draws", "some"), headers.get("x-kiln-confidence", "")
    return f"Picked by the classifier out of {draws} draws" + (
        f"; its confidence: {confidence}." if confidence else "."
    )


def _whole(written: str, otherwise: int, high: int, low: int = 0) -> int:
    return min(max(int(written), low), high) if written.isdecimal() else otherwise


def _decimal(written: str) -> float | None:
    try:
        value = float(written)
    except ValueError:
        return None
    return value if 0.05 <= value <= 10 else None
