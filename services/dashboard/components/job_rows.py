"""A row of the list of jobs. It is updated in place, so that it keeps the keyboard focus."""

from __future__ import annotations

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from kiln import JobData
from services.dashboard.elements.html import box, link, text
from services.dashboard.text import duration, failure_message, format_count, job_title, time_ago


class ProgressBar:
    """A progress bar with an accessible name."""

    def __init__(self, label: str) -> None:
        limits = {"aria-valuemin": "0", "aria-valuemax": "100", "aria-label": label}
        with box("bar", role="progressbar", **limits) as self._box:
            self._done = box()

    def show(self, fraction: float, status: str) -> None:
        self._box.props["aria-valuenow"] = f"{100 * fraction:.0f}"
        self._box.classes(replace=f"bar {status}")
        self._done.style(replace=f"width: {100 * fraction:.2f}%")


class StatusPill:
    """A job's status: a word with a coloured dot."""

    def __init__(self) -> None:
        self._text = text("", "span", "pill")

    def show(self, job: JobData) -> None:
        self._text.text = str(job.status)
        self._text.classes(replace=f"pill {job.status}")


class JobRow:
    def __init__(self, job: JobData) -> None:
        with box("job", "li") as self.element:
            with box("stack tight"):
                link(job_title(job), f"/jobs/{job.id}", "name")
                text(f"{job.preset} · {job.dataset}", "span", "id")
                text(job.id, "span", "id")
            self._pill = StatusPill()
            with box("wide stack tight"):
                self._bar = ProgressBar(f"Progress of {job_title(job)}")
                self._progress = text("", "span", "help")
            self._outcome = text("", "span", "help wide")
            self.actions: Element = box("row")
        self._job: JobData | None = None
        self.show(job)

    def show(self, job: JobData) -> bool:
        """Updates the row. -> whether the status, and so the set of possible actions, has changed."""
        previous, self._job = self._job, job
        if previous == job:
            return False
        self._pill.show(job)
        self._bar.show(job.progress.fraction, job.status)
        _set_text(self._progress, progress_line(job))
        _set_text(self._outcome, _outcome(job))
        return previous is None or previous.status != job.status


def progress_line(job: JobData) -> str:
    """`3,200 of 1.0 M images · 800/s · 20 min 34 s left`."""
    progress = job.progress
    line = f"{format_count(progress.images_seen)} of {format_count(progress.images_total)} images"
    if job.is_over:
        return line
    if progress.images_per_second:
        line += f" · {progress.images_per_second:,.0f}/s"
    if progress.eta_seconds is not None and job.status == "running":
        line += f" · {duration(progress.eta_seconds)} left"
    return line


def _outcome(job: JobData) -> str:
    if job.model_id:
        return f"Model {job.model_id}"
    if job.is_over:
        happened, _ = failure_message(job)
        return happened[:1].upper() + happened.partition("\n")[0][1:140]
    return f"Created {time_ago(job.created_at)}" + (f", attempt {job.attempt}" if job.attempt > 1 else "")


def _set_text(element: TextElement, words: str) -> None:
    if element.text != words:
        element.text = words
