"""/jobs: all jobs, newest first, and the form of a new one."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

from kiln import DatasetData, JobData, JobStatus
from services.dashboard.components.job_actions import show_actions
from services.dashboard.components.job_form import JobForm
from services.dashboard.components.job_rows import JobRow
from services.dashboard.connection import Connection
from services.dashboard.elements.fields import select
from services.dashboard.elements.html import box, button, text
from services.dashboard.page import Page, open_page, page_at

JOBS_LISTED = 50
ANY_STATUS = "any"


def register(connection: Connection) -> None:
    @page_at("/jobs")
    async def jobs(request: Request) -> None:
        page = await open_page(connection, "Jobs", "/jobs")
        await page.build(JobsPage(page, dict(request.query_params)).draw)


class JobsPage:
    def __init__(self, page: Page, query: dict[str, str]) -> None:
        self.page, self._query = page, query
        self._rows: dict[str, JobRow] = {}
        self._status = ANY_STATUS

    async def draw(self) -> None:
        presets = await self.page.kiln.presets.list()
        datasets = [dataset.name for dataset in await self._read_datasets()]
        form = JobForm(self.page, presets, datasets, await self.page.connection.openapi())
        jobs = await self._read_jobs()
        with box("row between"):
            text("Each job trains one model. After a crash, a job continues from its last checkpoint.", "p", "lead")
            self._toggle = button("New job", self._toggle_form, "primary", **{"aria-expanded": "false"})
        self._form_box = box("card", tag="section", **{"aria-label": "New job"})
        with self._form_box:
            form.draw(self._query)
        self._form_box.set_visibility(False)
        with box("card", tag="section", **{"aria-label": "Jobs"}):
            with box("row between"):
                self._count = text("", "p", "help")
                with box():
                    options = {ANY_STATUS: "all"} | {str(status): str(status) for status in JobStatus}
                    select("Status", options, ANY_STATUS, self._set_status)
            self._list = box("jobs", "ul", style="list-style: none; padding: 0; margin: 0")
            self._empty = box()
        self._show(jobs)
        if self._query or not jobs:
            self._toggle_form()
        self.page.poll(self._refresh)

    def _toggle_form(self) -> None:
        is_open = not self._form_box.visible
        self._form_box.set_visibility(is_open)
        self._toggle.text = "Close" if is_open else "New job"
        self._toggle.props["aria-expanded"] = "true" if is_open else "false"

    async def _set_status(self, status: str) -> None:
        self._status = status
        await self._refresh()

    async def _read_jobs(self) -> list[JobData]:
        status = None if self._status == ANY_STATUS else self._status
        return [job async for job in self.page.kiln.jobs.list(status, JOBS_LISTED)]

    async def _read_datasets(self) -> Sequence[DatasetData]:
        """None from an API of an older version."""
        return await self.page.kiln.datasets.list() if await self.page.connection.has_route("/datasets") else ()

    async def _refresh(self) -> None:
        self._show(await self._read_jobs())

    def _show(self, jobs: list[JobData]) -> None:
        """Updates existing rows in place and inserts new ones."""
        for removed in set(self._rows) - {job.id for job in jobs}:
            self._rows.pop(removed).element.delete()
        for position, job in enumerate(jobs):
            row = self._rows.get(job.id)
            if row is None:
                with self._list:
                    row = self._rows[job.id] = JobRow(job)
                row.element.move(target_index=position)
                self._draw_actions(job, row)
            elif row.show(job):
                self._draw_actions(job, row)
        active = sum(not job.is_over for job in jobs)
        self._count.text = f"{len(jobs)} shown, {active} active" if jobs else ""
        self._show_empty_state(not jobs)

    def _draw_actions(self, job: JobData, row: JobRow) -> None:
        show_actions(self.page, job, row.actions, on_done=self._on_action, on_deleted=self._refresh, classes="small")

    def _show_empty_state(self, is_empty: bool) -> None:
        if is_empty == bool(list(self._empty)):
            return
        self._empty.clear()
        if is_empty:
            with self._empty:
                self.page.empty_state(
                    "No jobs yet. Choose a preset above and start training."
                    if self._status == ANY_STATUS
                    else f"No job has the status {self._status}."
                )

    async def _on_action(self, _: JobData) -> None:
        await self._refresh()
