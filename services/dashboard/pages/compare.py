"""Several jobs over one another: curves, grids side by side, a table."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from kiln import _requests as wire
from kiln._requests import JobData
from services.dashboard import sentences
from services.dashboard.curves import ACCURACIES, FIGURES, LOSSES, NAMES, chart, points
from services.dashboard.elements import box, curves, heading, link, picture, slider, switch, table, text
from services.dashboard.site import Page, Site

MOST = 8  # more curves nobody can tell apart
OFFERED = 50
COLUMNS = {
    "name": "Job", "status": "Status", "images_seen": "Images", "seconds": "Seconds", "initial_loss_d": "D loss, first",
    "final_loss_d": "D loss, last", "initial_loss_g": "G loss, first", "final_loss_g": "G loss, last",
    "d_accuracy_real": "D right on real", "d_accuracy_fake": "D right on generated", "fid": "FID",
    "inception_score": "Inception Score",
}  # fmt: skip


def register(site: Site) -> None:
    @site.page("/compare")
    async def compare(request: Request) -> None:
        page = await site.open("Compare", "/compare")
        chosen = [part for part in request.query_params.get("jobs", "").split(",") if part]
        await page.load(ComparePage(page, chosen).build)


class ComparePage:
    def __init__(self, page: Page, chosen: list[str]) -> None:
        self.page = page
        self._chosen = chosen[:MOST]
        self._smoothing, self._is_log = 0.0, False
        self._drawn = 0

    async def build(self) -> None:
        found = (await self.page.kiln.send(wire.list_jobs(None, None, OFFERED))).data
        jobs = {job.id: job for job in found}
        text("Choose jobs, and see their curves over one another.", "p", "lead")
        if not jobs:
            self.page.empty("No jobs yet. Two of them make a comparison.", "Train one", "/jobs")
            return
        for missing in [job_id for job_id in self._chosen if job_id not in jobs]:
            jobs[missing] = await self.page.kiln.send(wire.get_job(missing))
        with box("side"):
            with box("card stack"):
                heading("Jobs")
                with box("pick", role="group", tabindex="0", **{"aria-label": "Jobs to compare"}):
                    for job in jobs.values():
                        self._draw_choice(job)
                slider("Smoothing", 0.0, self._smooth, low=0.0, high=0.98, step=0.02)
                switch("Log scale", False, self._set_log)
            self._result = box("stack")
        self._jobs = jobs
        await self._show()

    def _draw_choice(self, job: JobData) -> None:
        async def choose(is_on: bool) -> None:
            self._chosen = [*self._chosen, job.id] if is_on else [other for other in self._chosen if other != job.id]
            await self._show()

        switch(f"{sentences.of_job(job)} ({job.status})", job.id in self._chosen, choose)

    async def _smooth(self, written: str) -> None:
        self._smoothing = float(written)
        await self._show()

    async def _set_log(self, is_log: bool) -> None:
        self._is_log = is_log
        await self._show()

    async def _show(self) -> None:
        address = f"?{urlencode({'jobs': ','.join(self._chosen)})}" if self._chosen else ""
        ui.navigate.history.replace(f"/compare{address}")
        self._drawn += 1
        drawing, chosen = self._drawn, self._chosen[:MOST]
        if len(self._chosen) > MOST:
            self.page.say(f"The first {MOST} are shown; more curves nobody can tell apart.")
        asked = [self.page.kiln.send(wire.metrics(job_id, -1)) for job_id in chosen]
        series = await self.page.ask(asyncio.gather(*asked))
        table_of = self.page.kiln.send(wire.compare(chosen)) if chosen else asyncio.sleep(0, [])
        rows = await self.page.ask(table_of)
        grids = await self.page.ask(asyncio.gather(*(self.page.kiln.send(wire.list_samples(job)) for job in chosen)))
        if series is None or rows is None or grids is None or drawing != self._drawn:
            return
        self._result.clear()
        with self._result:
            if not chosen:
                self.page.empty("Choose one job or more on the left.")
                return
            names = [sentences.of_job(self._jobs[job_id]) for job_id in chosen]
            names = [f"{name} #{at}" if names.count(name) > 1 else name for at, name in enumerate(names, 1)]
            self._draw_table(rows)
            self._draw_charts(dict(zip(names, series, strict=True)))
            self._draw_grids(dict(zip(names, zip(chosen, grids, strict=True), strict=True)))

    def _draw_table(self, rows: list[dict[str, object]]) -> None:
        shown = {name: title for name, title in COLUMNS.items() if any(row.get(name) is not None for row in rows)}
        with box("card", tag="section", **{"aria-label": "Figures"}):
            with box("row between"):
                heading("Figures")
                with box("row"):
                    asked = urlencode({"jobs": ",".join(self._chosen[:MOST])})
                    link("CSV", f"/files/compare?{asked}&as=csv", "button small", download="compare.csv")
                    link("Markdown", f"/files/compare?{asked}&as=markdown", "button small", download="compare.md")
                    link("Picture", f"/files/compare?{asked}&as=png", "button small", download="compare.png")
            cells = [[sentences.value(row.get(name)) for name in shown] for row in rows]
            table("Figures of the chosen jobs", list(shown.values()), cells)

    def _draw_charts(self, series: dict[str, list[dict[str, float]]]) -> None:
        there = {name for rows in series.values() for row in rows for name in row}
        with box("card", tag="section", **{"aria-label": "Curves"}):
            if not there:
                text("No metrics yet; the first row comes after the first tick.", "p", "soft")
            for name in (*LOSSES, *ACCURACIES, *FIGURES):
                if name in there:
                    title = {"loss_g": "Generator loss", "loss_d": "Discriminator loss"}.get(name, NAMES[name])
                    title = f"D accuracy, {title}" if name in ACCURACIES else title
                    heading(title, 2 if name in LOSSES else 3)
                    by_job = {job: points(rows, name) for job, rows in series.items()}
                    is_log = self._is_log and name in LOSSES
                    curves(chart(by_job, title, smoothing=self._smoothing, is_log=is_log), title, "chart small")

    def _draw_grids(self, grids: dict[str, tuple[str, list[dict[str, int]]]]) -> None:
        with box("card", tag="section", **{"aria-label": "Samples"}):
            heading("Samples, as they are now")
            with box("side-by-side"):
                for name, (job_id, samples) in grids.items():
                    with box("stack tight", "figure"):
                        if samples:
                            url = f"/files/jobs/{job_id}/samples/{samples[-1]['nimg']}.png"
                            picture(url, f"The latest samples of {name}", "pixels grid-image")
                        told = f"after {sentences.count(samples[-1]['nimg'])} images" if samples else "no grid yet"
                        text(f"{name}, {told}", "figcaption", "help")
