"""/datasets: pushes a ZIP by drag and drop, lists the data sets, and shows the report and a preview of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments

from kiln import DatasetData, NotFound
from services.dashboard.components.dataset_upload import draw_upload
from services.dashboard.connection import Connection
from services.dashboard.elements.dialogs import confirmation, open_dialog
from services.dashboard.elements.html import box, button, facts, heading, image, link, table, text
from services.dashboard.page import Page, open_page, page_at
from services.dashboard.text import format_bytes, time_ago

LISTED_FILES = 200  # of each kind; the API lists all
LISTED_CLASSES = 6  # on a card
LISTED_SIZES = 6


def register(connection: Connection) -> None:
    @page_at("/datasets")
    async def datasets() -> None:
        page = await open_page(connection, "Data sets", "/datasets")
        await page.build(DatasetList(page).draw)

    @page_at("/datasets/{name}")
    async def dataset(name: str) -> None:
        page = await open_page(connection, "Data set", "/datasets")
        await page.build(DatasetPage(page, name).draw)


class DatasetList:
    def __init__(self, page: Page) -> None:
        self.page = page

    async def draw(self) -> None:
        datasets = await self.page.kiln.datasets.list()
        text("Images sorted by class, which jobs train on. Pushed data sets are on every worker.", "p", "lead")
        draw_upload(self._on_end)
        with box("cards"):
            for dataset in datasets:
                _draw_card(dataset)

    def _on_end(self, event: GenericEventArguments) -> None:
        """After an upload: shows the data set's page, or the reason why the API refused it."""
        if event.args.get("name"):
            ui.navigate.to(f"/datasets/{event.args['name']}")


class DatasetPage:
    def __init__(self, page: Page, name: str) -> None:
        self.page, self.name = page, name

    async def draw(self) -> None:
        try:
            dataset = await self.page.kiln.datasets.get(self.name)
        except NotFound:
            self.page.title.text = "Data set not found"
            self.page.empty_state(f"This Kiln has no data set {self.name}.", "All data sets", "/datasets")
            return
        self.page.title.text = dataset.display_name
        ui.page_title(f"{dataset.display_name} · Kiln")
        with box("row between"):
            text(_summary(dataset), "p", "soft")
            with box("row"):
                if dataset.problem is None:
                    link("New job", _new_job_url(dataset), "button primary")
                if dataset.source == "pushed":
                    self._draw_delete(dataset)
        if dataset.problem is not None:
            with box("card trouble", role="alert"):
                text(f"This folder cannot be used: {dataset.problem}")
            return
        report = dataset.report or {}
        _draw_warnings(report)
        with box("two"):
            with box("stack"):
                if "preview" in dataset.links:
                    _draw_preview(dataset)
                _draw_files("Damaged files", "on_bad_file=skip trains without them.", report.get("damaged", ()))
                _draw_files("Ignored files", "They are no images, or hidden.", report.get("ignored", ()))
            with box("stack"):
                _draw_counts(dataset)
                _draw_facts(dataset, report)

    def _draw_delete(self, dataset: DatasetData) -> None:
        dialog = confirmation(
            "Delete this data set?",
            f"{dataset.display_name}: its images are deleted permanently. Models trained on it are kept.",
            "Delete",
            self._delete,
            is_destructive=True,
        )
        opener = button("Delete", lambda: open_dialog(dialog), "quiet")
        opener.props["aria-label"] = f"Delete {dataset.display_name}"

    async def _delete(self) -> None:
        if await self.page.succeeded(self.page.kiln.datasets.delete(self.name)):
            ui.navigate.to("/datasets")


def _draw_card(dataset: DatasetData) -> None:
    with box("card stack", tag="article", **{"aria-label": f"Data set {dataset.display_name}"}):
        with box("row between top"):
            with box(tag="h2"):
                link(dataset.display_name, _page_url(dataset))
            text(dataset.source, "span", "pill")
        if dataset.problem is not None:
            text(dataset.problem, "p", "error")
            return
        if "preview" in dataset.links:
            image(_preview_url(dataset), f"Images of {dataset.display_name} by class", "sample-rows", loading="lazy")
        text(_summary(dataset), "p", "help")
        shown = ", ".join(dataset.classes[:LISTED_CLASSES])
        text(shown + (", …" if len(dataset.classes) > LISTED_CLASSES else ""), "p")
        with box("row"):
            link("New job", _new_job_url(dataset), "button primary", **{"aria-label": f"New job on {dataset.name}"})
            link("Report", _page_url(dataset), "button", **{"aria-label": f"Report on {dataset.name}"})


def _draw_warnings(report: Mapping[str, Any]) -> None:
    if warnings := report.get("warnings"):
        with box("card notice", tag="section", **{"aria-label": "Warnings"}):
            heading("Warnings")
            with box("plain-list", "ul"):
                for warning in warnings:
                    text(warning, "li")


def _draw_preview(dataset: DatasetData) -> None:
    with box("card", tag="section", **{"aria-label": "Preview"}):
        heading("Preview")
        with box("scrolls", tabindex="0", role="region", **{"aria-label": "Preview by class"}):
            image(_preview_url(dataset), f"Up to ten images of each class of {dataset.display_name}", "")


def _draw_counts(dataset: DatasetData) -> None:
    with box("card", tag="section", **{"aria-label": "Classes"}):
        heading("Classes")
        splits = list(dataset.counts)
        rows = [(name, *(f"{dataset.counts[split].get(name, 0):,}" for split in splits)) for name in dataset.classes]
        table("Images by class", ("Class", *splits), rows)


def _draw_facts(dataset: DatasetData, report: Mapping[str, Any]) -> None:
    values = {"Name in jobs": dataset.name, "Source": dataset.source}
    if sizes := report.get("resolutions"):
        shown = ", ".join(f"{size} ({count:,})" for size, count in list(sizes.items())[:LISTED_SIZES])
        values["Sizes"] = shown + (f" and {len(sizes) - LISTED_SIZES} more" if len(sizes) > LISTED_SIZES else "")
    if report:
        values["Channels"] = "1, all images are grey" if report["channels"] == 1 else "3"
        values["Layout"] = report["layout"]
    if report.get("held_out"):
        values["Test split"] = report["held_out"]
    if dataset.pushed_at is not None:
        values["Pushed"] = time_ago(dataset.pushed_at)
        values["Size"] = format_bytes(dataset.size_bytes or 0)
        values["Digest"] = dataset.digest or ""
    with box("card", tag="section", **{"aria-label": "Facts"}):
        heading("Facts")
        facts(values)


def _draw_files(title: str, consequence: str, files: Sequence[Mapping[str, str]]) -> None:
    if not files:
        return
    with box("card", tag="section", **{"aria-label": title}):
        heading(f"{title}: {len(files):,}")
        text(consequence, "p", "help")
        table(title, ("File", "Reason"), [(file["path"], file["reason"]) for file in files[:LISTED_FILES]], "files")
        if len(files) > LISTED_FILES:
            text(f"{len(files) - LISTED_FILES:,} more; `kiln datasets show` lists all with --json.", "p", "help")


def _summary(dataset: DatasetData) -> str:
    if dataset.images is None:
        return "A folder that cannot be used"
    count = len(dataset.classes)
    return f"{dataset.images:,} images of {count} {'class' if count == 1 else 'classes'}"


def _page_url(dataset: DatasetData) -> str:
    return f"/datasets/{quote(dataset.name)}"


def _preview_url(dataset: DatasetData) -> str:
    return f"/files/datasets/{quote(dataset.name)}/preview.png?{urlencode({'digest': dataset.digest or ''})}"


def _new_job_url(dataset: DatasetData) -> str:
    return f"/jobs?{urlencode({'dataset': dataset.name})}"
