"""/jobs/{job_id}: one job, live: progress, curves, samples, events, files and config."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from kiln import Event, JobData, NotFound
from services.dashboard.components.job_actions import show_actions
from services.dashboard.components.job_rows import ProgressBar, StatusPill, progress_line
from services.dashboard.components.live_curves import LiveCurves
from services.dashboard.components.samples import Samples
from services.dashboard.connection import Connection
from services.dashboard.elements.html import box, figure, heading, link, table, text
from services.dashboard.page import Page, open_page, page_at
from services.dashboard.text import duration, failure_message, format_value, job_title

ENDINGS = {"failed": "Failed", "lost": "Lost, can be resumed", "cancelled": "Cancelled"}
RETAINED_CHECKPOINTS = 2  # the trainer deletes older ones
REMEDIES = {"diverged": "Retry with half the learning rate", "oom": "Retry with half the batch size"}


def register(connection: Connection) -> None:
    @page_at("/jobs/{job_id}")
    async def job(job_id: str) -> None:
        page = await open_page(connection, "Job", "/jobs")
        await page.build(JobPage(page, job_id).draw)


class JobPage:
    def __init__(self, page: Page, job_id: str) -> None:
        self.page, self.job_id = page, job_id
        self._status = ""
        self._last_nimg = -1.0
        self._event_ids: set[str] = set()
        self._checkpoints: list[int] = []

    async def draw(self) -> None:
        try:
            job = await self.page.kiln.jobs.get(self.job_id)
        except NotFound:
            self.page.title.text = "Job not found"
            self.page.empty_state(f"This Kiln has no job {self.job_id}.", "All jobs", "/jobs")
            return
        preset = await self._read_preset(job)
        self.page.title.text = job_title(job)
        ui.page_title(f"{job_title(job)} · Kiln")
        self._draw_head(job)
        self._failure = box()
        self._trains = job.kind != "generate"
        with box("two"):
            with box("stack"):
                if self._trains:
                    self._curves = LiveCurves(f"Curves of {job_title(job)}")
                self._draw_events()
            with box("stack"):
                if self._trains:
                    self._samples = Samples(self.page, job.id)
                self._files = box("card", tag="section", **{"aria-label": "Results"})
                self._draw_config(job, preset)
        await self._on_update(job)
        await self._refresh_samples()
        self.page.follow_job(job.id, self._on_update)

    async def _read_preset(self, job: JobData) -> dict[str, Any]:
        try:
            return await self.page.kiln.presets.get(job.preset)
        except NotFound:  # a job of another version of Kiln
            return {"config": job.config, "sources": {}}

    # --- Drawn once --------------------------------------------------------------------------------------------------

    def _draw_head(self, job: JobData) -> None:
        with box("row between"):
            with box("row"):
                self._pill = StatusPill()
                task = f"{job.preset} on {job.dataset}" if job.kind != "generate" else "data set"
                text(f"{task}, {job.id}", "span", "soft")
            self._actions = box("row")
        with box("card", tag="section", **{"aria-label": "Progress"}):
            self._bar = ProgressBar("Progress")
            self._progress = text("", "p", "help", role="status")
            self._figures = box("figures")

    def _draw_events(self) -> None:
        with box("card", tag="section", **{"aria-label": "Events"}):
            heading("Events")
            self._event_list = box("events", role="log", tabindex="0", **{"aria-label": "Events, newest first"})

    def _draw_config(self, job: JobData, preset: dict[str, Any]) -> None:
        base, sources = preset["config"], preset["sources"]
        changed = {name: value for name, value in job.config.items() if value != base.get(name)}
        with box("card", tag="section", **{"aria-label": "Config"}):
            heading("Config")
            if not self._trains:
                text(f"Model {job.config['model']}", "p", "soft")
            elif changed:
                rows = [(name, format_value(value), format_value(base.get(name))) for name, value in changed.items()]
                table("Changes to the preset", ("Field", "This job", "Preset"), rows, "differences")
            else:
                text(f"No changes to the preset {job.preset}.", "p", "soft")
            with box("", "details"):
                text("All fields", "summary")
                all_rows = [(name, format_value(value), sources.get(name, "")) for name, value in job.config.items()]
                table("Config", ("Field", "Value", "Source of the preset's value"), all_rows)
            if self._trains:
                link("New job with this config", new_job_url(job), "button small")

    # --- Updated live ------------------------------------------------------------------------------------------------

    async def _on_update(self, update: JobData | Event) -> None:
        if isinstance(update, Event):
            await self._show_event(update)
            return
        self._show_job(update)
        if update.metrics.get("nimg", -1.0) > self._last_nimg:
            rows = await self.page.kiln.jobs.series(self.job_id, int(self._last_nimg))
            self._last_nimg = rows[-1]["nimg"] if rows else self._last_nimg
            self._curves.add(rows)
        if update.is_over:
            await self._refresh_samples()

    async def _refresh_samples(self) -> None:
        if self._trains:
            await self._samples.refresh()

    def _show_job(self, job: JobData) -> None:
        self._pill.show(job)
        self._bar.show(job.progress.fraction, job.status)
        self._progress.text = progress_line(job)
        self._show_figures(job)
        if job.status != self._status:
            self._status = job.status
            show_actions(self.page, job, self._actions, on_done=self._show_job, on_deleted=self._leave)
            self._show_failure(job)
            self._show_files(job)

    def _leave(self) -> None:
        ui.navigate.to("/jobs")

    def _show_figures(self, job: JobData) -> None:
        took_s = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
        values = {
            "generator loss": job.metrics.get("loss_g"), "discriminator loss": job.metrics.get("loss_d"),
            "FID": job.metrics.get("fid"), "images per second": job.progress.images_per_second,
            "duration" if job.is_over else "time left": duration(took_s if job.is_over else job.progress.eta_seconds),
            "attempt": job.attempt,
        }  # fmt: skip
        known = {name: format_value(value) for name, value in values.items() if value not in (None, "")}
        if list(known) != list(getattr(self, "_numbers", {})):
            self._figures.clear()
            with self._figures:
                self._numbers = {name: figure("", name) for name in known}
        for name, value in known.items():
            self._numbers[name].text = value

    def _show_failure(self, job: JobData) -> None:
        self._failure.clear()
        if job.status not in ENDINGS:
            return
        happened, advice = failure_message(job)
        is_error = job.status != "cancelled"
        classes = "card trouble" if is_error else "card"
        with self._failure, box(classes, tag="section", role="alert", **{"aria-label": "Why the job ended"}):
            reason = f": {str(job.reason).replace('_', ' ')}" if job.reason and is_error else ""
            heading(ENDINGS[job.status] + reason)
            if advice:
                text(advice)
            if job.error:
                text(happened, "pre")
            if job.reason in REMEDIES:
                link(REMEDIES[job.reason], new_job_url(job, remedy=True), "button primary")

    def _show_files(self, job: JobData) -> None:
        self._files.clear()
        with self._files:
            heading("Results")
            with box("row"):
                if job.model_id:
                    link("Try the model", f"/?{urlencode({'model': job.model_id})}", "button primary small")
                if not self._trains:
                    if job.status == "succeeded":
                        link("Download the data set", f"/files/jobs/{job.id}/dataset/download", "button primary small")
                    return
                link("Metrics as CSV", f"/files/jobs/{job.id}/metrics?as=csv", "button small", download=f"{job.id}.csv")
                link("Curves as PNG", f"/files/jobs/{job.id}/losses.png", "button small", download=f"{job.id}.png")
                link("Compare", f"/compare?{urlencode({'jobs': job.id})}", "button small")
            if job.model_id:
                text(f"Model {job.model_id}", "p", "help")
            self._checkpoint_line = text("", "p", "help")
        self._show_checkpoints()

    def _show_checkpoints(self) -> None:
        positions = " and ".join(f"{nimg:,}" for nimg in self._checkpoints)
        self._checkpoint_line.text = f"Checkpoints at {positions} images." if positions else ""

    async def _show_event(self, event: Event) -> None:
        if event.id in self._event_ids:
            return
        self._event_ids.add(event.id)
        with self._event_list, box("event") as line:
            text(f"{event.at:%H:%M:%S}" if event.at else "", "span", "soft")
            text(event.kind.replace("_", " "), "span", "eyebrow")
            text(event.message, "span")
        line.move(target_index=0)
        if event.kind == "sample":
            await self._refresh_samples()
        elif event.kind == "checkpoint":
            nimg = int(event.data.get("nimg", 0))
            self._checkpoints = [*self._checkpoints, nimg][-RETAINED_CHECKPOINTS:]
            self._show_checkpoints()


def new_job_url(job: JobData, remedy: bool = False) -> str:
    """A link to the form of a new job with this job's config, or with the remedy for its failure."""
    config = dict(job.config)
    if remedy and job.reason == "diverged":
        config["lr"] = config["lr"] / 2
    if remedy and job.reason == "oom":
        config["batch_size"] = max(2, config["batch_size"] // 2)
    fields = {name: _query_value(value) for name, value in config.items() if value is not None}
    return f"/jobs?{urlencode({'preset': job.preset, 'dataset': job.dataset, **fields})}"


def _query_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
