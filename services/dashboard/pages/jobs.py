"""All jobs, newest first, and the form that makes one."""

from __future__ import annotations

from fastapi import Request

from kiln import _requests as wire
from kiln._requests import JobData
from services.dashboard.elements import box, button, select, text
from services.dashboard.form import JobForm
from services.dashboard.job_rows import JobRow
from services.dashboard.site import Page, Site
from services.dashboard.steering import show_steering
from shared.jobs.record import JobStatus

SHOWN = 50
ANY = "any"


def register(site: Site) -> None:
    @site.page("/jobs")
    async def jobs(request: Request) -> None:
        page = await site.open("Jobs", "/jobs")
        await page.load(JobsPage(page, dict(request.query_params)).build)


class JobsPage:
    def __init__(self, page: Page, query: dict[str, str]) -> None:
        self.page, self._query = page, query
        self._rows: dict[str, JobRow] = {}
        self._status = ANY

    async def build(self) -> None:
        presets = await self.page.kiln.send(wire.list_presets())
        form = JobForm(self.page, presets, await self.page.site.description())
        found = await self._find()
        with box("row between"):
            text("Each job trains one model. It survives whatever happens to the machine it runs on.", "p", "lead")
            self._new = button("New job", self._toggle_form, "primary", **{"aria-expanded": "false"})
        self._form_box = box("card", tag="section", **{"aria-label": "New job"})
        with self._form_box:
            form.draw(self._query)
        self._form_box.set_visibility(False)
        with box("card", tag="section", **{"aria-label": "Jobs"}):
            with box("row between"):
                self._count = text("", "p", "help")
                with box():
                    states = {ANY: "every status"} | {status: str(status) for status in JobStatus}
                    select("Show", states, ANY, self._set_status)
            self._list = box("jobs", "ul", style="list-style: none; padding: 0; margin: 0")
            self._empty = box()
        self._show(found)
        if self._query or not found:
            self._toggle_form()
        self.page.keep_fresh(self._refresh)

    def _toggle_form(self) -> None:
        is_open = not self._form_box.visible
        self._form_box.set_visibility(is_open)
        self._new.text = "Close" if is_open else "New job"
        self._new.props["aria-expanded"] = "true" if is_open else "false"

    async def _set_status(self, status: str) -> None:
        self._status = status
        await self._refresh()

    async def _find(self) -> list[JobData]:
        status = None if self._status == ANY else self._status
        return (await self.page.kiln.send(wire.list_jobs(status, None, SHOWN))).data

    async def _refresh(self) -> None:
        self._show(await self._find())

    def _show(self, found: list[JobData]) -> None:
        """Rows that are known change in place; what is new comes on top."""
        for gone in set(self._rows) - {job.id for job in found}:
            self._rows.pop(gone).whole.delete()
        for position, job in enumerate(found):
            row = self._rows.get(job.id)
            if row is None:
                with self._list:
                    row = self._rows[job.id] = JobRow(job)
                row.whole.move(target_index=position)
                show_steering(self.page, job, row.actions, self._steered, "small")
            elif row.show(job):
                show_steering(self.page, job, row.actions, self._steered, "small")
        active = sum(not job.is_over for job in found)
        self._count.text = f"{len(found)} shown, {active} not over yet" if found else ""
        self._show_emptiness(not found)

    def _show_emptiness(self, is_empty: bool) -> None:
        if is_empty == bool(list(self._empty)):
            return
        self._empty.clear()
        if is_empty:
            with self._empty:
                which = "No jobs yet." if self._status == ANY else f"No job is {self._status}."
                self.page.empty(f"{which} Choose a preset above and start one.")

    async def _steered(self, _: JobData) -> None:
        await self._refresh()
