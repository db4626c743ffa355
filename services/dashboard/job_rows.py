"""A job in a list: one row that changes in place, so that nobody's focus is lost while it trains."""

from __future__ import annotations

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from kiln._requests import JobData
from services.dashboard import sentences
from services.dashboard.elements import box, link, text


class Bar:
    """A progress bar with a name."""

    def __init__(self, label: str) -> None:
        limits = {"aria-valuemin": "0", "aria-valuemax": "100", "aria-label": label}
        with box("bar", role="progressbar", **limits) as self._whole:
            self._done = box()

    def show(self, fraction: float, status: str) -> None:
        self._whole.props["aria-valuenow"] = f"{100 * fraction:.0f}"
        self._whole.classes(replace=f"bar {status}")
        self._done.style(replace=f"width: {100 * fraction:.2f}%")


class Pill:
    """A status: a word, a colour and a dot."""

    def __init__(self) -> None:
        self._text = text("", "span", "pill")

    def show(self, job: JobData) -> None:
        self._text.text = str(job.status)
        self._text.classes(replace=f"pill {job.status}")


class JobRow:
    def __init__(self, job: JobData) -> None:
        with box("job", "li") as self.whole:
            with box("stack tight"):
                link(sentences.of_job(job), f"/jobs/{job.id}", "name")
                text(f"{job.preset} · {job.dataset} · {job.id}", "span", "id")
            self._pill = Pill()
            with box("wide stack tight"):
                self._bar = Bar(f"progress of {sentences.of_job(job)}")
                self._numbers = text("", "span", "help")
            self._told = text("", "span", "help wide")
            self.actions: Element = box("row")
        self._shown: JobData | None = None
        self.show(job)

    def show(self, job: JobData) -> bool:
        """Whether the status is another than before, so that other things can be done with the job."""
        was, self._shown = self._shown, job
        if was == job:
            return False
        self._pill.show(job)
        self._bar.show(job.progress.fraction, job.status)
        _set(self._numbers, progress_line(job))
        _set(self._told, _outcome(job))
        return was is None or was.status != job.status


def progress_line(job: JobData) -> str:
    progress = job.progress
    line = f"{sentences.count(progress.images_seen)} of {sentences.count(progress.images_total)} images"
    if job.is_over:
        return line
    if progress.images_per_second:
        line += f" · {progress.images_per_second:,.0f}/s"
    if progress.eta_seconds is not None and job.status == "running":
        line += f" · {sentences.duration(progress.eta_seconds)} left"
    return line


def _outcome(job: JobData) -> str:
    if job.model_id:
        return f"made {job.model_id}"
    if job.is_over:
        happened, _ = sentences.of_failure(job)
        return happened.partition("\n")[0][:140]
    return f"{sentences.ago(job.created_at)}" + (f", attempt {job.attempt}" if job.attempt > 1 else "")


def _set(element: TextElement, words: str) -> None:
    if element.text != words:
        element.text = words
