"""One job, live: progress, curves, sample grids over time, what happened, what it was made of."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from kiln import Event, JobData, JobStatus
from kiln import _requests as wire
from services.dashboard import sentences
from services.dashboard.elements import box, heading, link, table, text
from services.dashboard.job_rows import Bar, Pill, progress_line
from services.dashboard.live_curves import LiveCurves
from services.dashboard.samples import Samples
from services.dashboard.site import Page, Site
from services.dashboard.steering import show_steering

ENDED: dict[str, str] = {
    JobStatus.FAILED: "This job failed", JobStatus.LOST: "This job lost its machine", JobStatus.CANCELLED: "Cancelled",
}  # fmt: skip
KEPT_CHECKPOINTS = 2  # of a run, by the trainer
AGAIN = {"diverged": "Again with half the learning rate", "oom": "Again with half the batch"}


def register(site: Site) -> None:
    @site.page("/jobs/{job_id}")
    async def job(job_id: str) -> None:
        page = await site.open("Job", "/jobs")
        await page.load(JobPage(page, job_id).build)


class JobPage:
    def __init__(self, page: Page, job_id: str) -> None:
        self.page, self.job_id = page, job_id
        self._last_nimg = -1.0
        self._events: set[str] = set()
        self._checkpoints: list[int] = []

    async def build(self) -> None:
        try:
            job = await self.page.kiln.send(wire.get_job(self.job_id))
        except wire.NotFound:
            self.page.title.text = "No such job"
            self.page.empty(f"There is no job {self.job_id}; maybe another Kiln has it.", "All jobs", "/jobs")
            return
        preset = await self._preset_of(job)
        self.page.title.text = sentences.of_job(job)
        ui.page_title(f"{sentences.of_job(job)} · Kiln")
        self._draw_head(job)
        self._failure = box()
        with box("two"):
            with box("stack"):
                self._curves = LiveCurves(f"Curves of {sentences.of_job(job)}")
                self._draw_events()
            with box("stack"):
                self._samples = Samples(self.page, job.id)
                self._files = box("card", tag="section", **{"aria-label": "What it left"})
                self._draw_config(job, preset)
        await self._take(job)
        await self._samples.look()
        self.page.follow(job.id, self._take)

    async def _preset_of(self, job: JobData) -> dict[str, Any]:
        try:
            return await self.page.kiln.send(wire.get_preset(job.preset))
        except wire.NotFound:  # a preset of another version
            return {"config": job.config, "sources": {}}

    # --- What does not change ----------------------------------------------------------------------------------------

    def _draw_head(self, job: JobData) -> None:
        with box("row between"):
            with box("row"):
                self._pill = Pill()
                text(f"{job.preset} on {job.dataset}, {job.id}", "span", "soft")
            self._actions = box("row")
        with box("card", tag="section", **{"aria-label": "Progress"}):
            self._bar = Bar("progress")
            self._numbers = text("", "p", "help", role="status")
            self._figures = box("figures")

    def _draw_events(self) -> None:
        with box("card", tag="section", **{"aria-label": "Events"}):
            heading("What happened")
            self._event_list = box("events", role="log", tabindex="0", **{"aria-label": "Events, newest first"})

    def _draw_config(self, job: JobData, preset: dict[str, Any]) -> None:
        base, sources = preset["config"], preset["sources"]
        changed = {name: value for name, value in job.config.items() if value != base.get(name)}
        with box("card", tag="section", **{"aria-label": "Config"}):
            heading("Config")
            if changed:
                value = sentences.value
                rows = [(name, value(now), value(base.get(name))) for name, now in changed.items()]
                table("What differs from the preset", ("Field", "This job", "Preset"), rows, "differences")
            else:
                text(f"Exactly as the preset {job.preset} has it.", "p", "soft")
            with box("", "details"):
                text("All of it", "summary")
                all_rows = [(name, sentences.value(value), sources.get(name, "")) for name, value in job.config.items()]
                table("The whole config", ("Field", "Value", "Where the preset has it from"), all_rows)
            link("Train again like this", again(job), "button small")

    # --- What does ---------------------------------------------------------------------------------------------------

    async def _take(self, news: JobData | Event) -> None:
        if isinstance(news, Event):
            self._show_event(news)
            if news.kind == "sample":
                await self._samples.look()
            elif news.kind == "checkpoint":
                self._checkpoints = [*self._checkpoints, int(news.data.get("nimg", 0))][-KEPT_CHECKPOINTS:]
                self._show_checkpoints()
            return
        self._show_job(news)
        if news.metrics.get("nimg", -1.0) > self._last_nimg:
            rows = await self.page.kiln.send(wire.metrics(self.job_id, int(self._last_nimg)))
            self._last_nimg = rows[-1]["nimg"] if rows else self._last_nimg
            self._curves.add(rows)
        if news.is_over:
            await self._samples.look()

    def _show_job(self, job: JobData) -> None:
        was = getattr(self, "_job", None)
        self._job = job
        self._pill.show(job)
        self._bar.show(job.progress.fraction, job.status)
        self._numbers.text = progress_line(job)
        self._show_figures(job)
        if was is None or was.status != job.status:
            show_steering(self.page, job, self._actions, self._show_job)
            self._show_failure(job)
            self._show_files(job)

    def _show_figures(self, job: JobData) -> None:
        took = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
        shown = {
            "generator loss": job.metrics.get("loss_g"), "discriminator loss": job.metrics.get("loss_d"),
            "FID": job.metrics.get("fid"), "images per second": job.progress.images_per_second,
            "took" if job.is_over else "left": sentences.duration(took if job.is_over else job.progress.eta_seconds),
            "attempt": job.attempt,
        }  # fmt: skip
        known = {name: sentences.value(value) for name, value in shown.items() if value not in (None, "")}
        if list(known) != list(getattr(self, "_figure_texts", {})):
            self._figures.clear()
            self._figure_texts = {}
            with self._figures:
                for name in known:
                    with box("figure"):
                        self._figure_texts[name] = text("", "span", "number")
                        text(name, "span", "eyebrow")
        for name, words in known.items():
            self._figure_texts[name].text = words

    def _show_failure(self, job: JobData) -> None:
        self._failure.clear()
        if job.status not in ENDED:
            return
        happened, advice = sentences.of_failure(job)
        trouble = "trouble" if job.status != JobStatus.CANCELLED else ""
        with self._failure, box(f"card {trouble}", tag="section", role="alert", **{"aria-label": "Why it ended"}):
            reason = f": {str(job.reason).replace('_', ' ')}" if job.reason and job.status != "cancelled" else ""
            heading(ENDED[job.status] + reason)
            if advice:
                text(advice)
            if job.error:
                text(happened, "pre")
            if job.reason in AGAIN:
                link(AGAIN[job.reason], again(job, remedy=True), "button primary")

    def _show_files(self, job: JobData) -> None:
        self._files.clear()
        with self._files:
            heading("What it left")
            with box("row"):
                if job.model_id:
                    link("Try the model", f"/?{urlencode({'model': job.model_id})}", "button primary small")
                link("Curves as CSV", f"/files/jobs/{job.id}/metrics?as=csv", "button small", download=f"{job.id}.csv")
                link("Curves as PNG", f"/files/jobs/{job.id}/losses.png", "button small", download=f"{job.id}.png")
                link("Compare", f"/compare?{urlencode({'jobs': job.id})}", "button small")
            if job.model_id:
                text(f"Its model is {job.model_id}.", "p", "help")
            self._checkpoint_line = text("", "p", "help")
        self._show_checkpoints()

    def _show_checkpoints(self) -> None:
        kept = " and ".join(f"{nimg:,}" for nimg in self._checkpoints)
        resumed = "It goes on from the newest if its worker is lost, or when it is resumed."
        self._checkpoint_line.text = f"Checkpoints after {kept} images are kept. {resumed}" if kept else ""

    def _show_event(self, event: Event) -> None:
        if event.id in self._events:
            return
        self._events.add(event.id)
        with self._event_list, box("event") as line:
            text(f"{event.at:%H:%M:%S}" if event.at else "", "span", "soft")
            text(event.kind.replace("_", " "), "span", "eyebrow")
            text(event.message, "span")
        line.move(target_index=0)


def again(job: JobData, remedy: bool = False) -> str:
    """A link to the form, filled in like this job; with the remedy for what it died of."""
    config = dict(job.config)
    if remedy and job.reason == "diverged":
        config["lr"] = config["lr"] / 2
    if remedy and job.reason == "oom":
        config["batch_size"] = max(2, config["batch_size"] // 2)
    written = {name: _written(value) for name, value in config.items() if value is not None}
    return f"/jobs?{urlencode({'preset': job.preset, 'dataset': job.dataset, **written})}"


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
