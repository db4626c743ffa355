"""/compare: the curves, figures and samples of several jobs beside one another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from kiln import JobData
from services.dashboard.connection import Connection
from services.dashboard.elements.charts import ACCURACIES, FIGURES, LABELS, LOSSES, line_chart, points
from services.dashboard.elements.fields import checkbox, slider
from services.dashboard.elements.html import box, chart, heading, image, link, table, text
from services.dashboard.page import Page, open_page, page_at
from services.dashboard.text import format_count, format_value, job_title

MAX_JOBS = 8  # more curves cannot be told apart
JOBS_LISTED = 50
COLUMNS = {  # field of GET /compare -> heading
    "name": "Job", "status": "Status", "images_seen": "Images", "seconds": "Seconds", "initial_loss_d": "First D loss",
    "final_loss_d": "Last D loss", "initial_loss_g": "First G loss", "final_loss_g": "Last G loss",
    "d_accuracy_real": "D accuracy, real", "d_accuracy_fake": "D accuracy, generated", "fid": "FID",
    "inception_score": "Inception Score", "recall": "Recall", "imagenet_fid": "ImageNet FID",
    "imagenet_recall": "ImageNet recall",
}  # fmt: skip
TITLES = LABELS | {
    "loss_g": "Generator loss", "loss_d": "Discriminator loss",
    "d_accuracy_real": "Discriminator accuracy on real images",
    "d_accuracy_fake": "Discriminator accuracy on generated images",
}  # fmt: skip


def register(connection: Connection) -> None:
    @page_at("/compare")
    async def compare(request: Request) -> None:
        page = await open_page(connection, "Compare", "/compare")
        selected = [part for part in request.query_params.get("jobs", "").split(",") if part]
        await page.build(ComparePage(page, selected).draw)


class ComparePage:
    def __init__(self, page: Page, selected: list[str]) -> None:
        self.page = page
        self._selected = selected[:MAX_JOBS]
        self._smoothing, self._is_log = 0.0, False
        self._requests = 0

    async def draw(self) -> None:
        jobs: dict[str, JobData] = {job.id: job async for job in self.page.kiln.jobs.list(limit=JOBS_LISTED)}
        text("Compare the curves, figures and samples of several jobs.", "p", "lead")
        if not jobs:
            self.page.empty_state("No jobs yet. Train two to compare them.", "New job", "/jobs")
            return
        for older in [job_id for job_id in self._selected if job_id not in jobs]:
            jobs[older] = await self.page.kiln.jobs.get(older)
        with box("side"):
            with box("card stack"):
                heading("Jobs")
                with box("pick", role="group", tabindex="0", **{"aria-label": "Jobs to compare"}):
                    for job in jobs.values():
                        self._draw_checkbox(job)
                slider("Smoothing", 0.0, self._set_smoothing, low=0.0, high=0.98, step=0.02)
                checkbox("Log scale", False, self._set_log)
            self._result = box("stack")
        self._jobs = jobs
        await self._show()

    def _draw_checkbox(self, job: JobData) -> None:
        async def select(is_on: bool) -> None:
            others = [other for other in self._selected if other != job.id]
            self._selected = [*others, job.id] if is_on else others
            await self._show()

        checkbox(f"{job_title(job)} ({job.status})", job.id in self._selected, select)

    async def _set_smoothing(self, value: str) -> None:
        self._smoothing = float(value)
        await self._show()

    async def _set_log(self, is_log: bool) -> None:
        self._is_log = is_log
        await self._show()

    async def _show(self) -> None:
        query = f"?{urlencode({'jobs': ','.join(self._selected)})}" if self._selected else ""
        ui.navigate.history.replace(f"/compare{query}")
        self._requests += 1
        request, selected, kiln = self._requests, self._selected[:MAX_JOBS], self.page.kiln
        if len(self._selected) > MAX_JOBS:
            self.page.toast(f"Only the first {MAX_JOBS} of {len(self._selected)} selected jobs are shown.")
        series = await self.page.request(asyncio.gather(*(kiln.jobs.series(job_id) for job_id in selected)))
        rows = await self.page.request(kiln.jobs.compare(selected) if selected else asyncio.sleep(0, []))
        grids = await self.page.request(asyncio.gather(*(kiln.jobs.sample_positions(job_id) for job_id in selected)))
        if series is None or rows is None or grids is None or request != self._requests:
            return
        self._result.clear()
        with self._result:
            if not selected:
                self.page.empty_state("Select one or more jobs.")
                return
            names = [job_title(self._jobs[job_id]) for job_id in selected]
            names = [f"{name} #{at}" if names.count(name) > 1 else name for at, name in enumerate(names, 1)]
            self._draw_table(rows, selected)
            self._draw_charts(dict(zip(names, series, strict=True)))
            self._draw_samples(dict(zip(names, zip(selected, grids, strict=True), strict=True)))

    def _draw_table(self, rows: Sequence[dict[str, object]], selected: list[str]) -> None:
        columns = {name: title for name, title in COLUMNS.items() if any(row.get(name) is not None for row in rows)}
        url = f"/files/compare?{urlencode({'jobs': ','.join(selected)})}"
        with box("card", tag="section", **{"aria-label": "Figures"}):
            with box("row between"):
                heading("Figures")
                with box("row"):
                    link("CSV", f"{url}&as=csv", "button small", download="compare.csv")
                    link("Markdown", f"{url}&as=markdown", "button small", download="compare.md")
                    link("PNG", f"{url}&as=png", "button small", download="compare.png")
            cells = [[format_value(row.get(name)) for name in columns] for row in rows]
            table("Figures of the selected jobs", list(columns.values()), cells)

    def _draw_charts(self, series: dict[str, Sequence[dict[str, float]]]) -> None:
        names = {name for rows in series.values() for row in rows for name in row}
        with box("card", tag="section", **{"aria-label": "Curves"}):
            if not names:
                text("No metrics yet. The first values arrive after the first tick.", "p", "soft")
            for name in (*LOSSES, *ACCURACIES, *FIGURES):
                if name not in names:
                    continue
                heading(TITLES[name], 2 if name in LOSSES else 3)
                by_job = {job: points(rows, name) for job, rows in series.items()}
                is_log = self._is_log and name in LOSSES
                options = line_chart(by_job, TITLES[name], smoothing=self._smoothing, is_log=is_log)
                chart(options, TITLES[name], "chart small")

    def _draw_samples(self, grids: dict[str, tuple[str, Sequence[int]]]) -> None:
        with box("card", tag="section", **{"aria-label": "Samples"}):
            heading("Latest samples")
            with box("side-by-side"):
                for name, (job_id, positions) in grids.items():
                    with box("stack tight", "figure"):
                        if positions:
                            url = f"/files/jobs/{job_id}/samples/{positions[-1]}.png"
                            image(url, f"Latest samples of {name}", "pixels grid-image")
                        age = f"after {format_count(positions[-1])} images" if positions else "no samples yet"
                        text(f"{name}, {age}", "figcaption", "help")
