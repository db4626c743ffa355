"""What the dashboard says in words: errors, states, what to do about a failure, numbers and durations."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2

from kiln._requests import ApiError, InvalidInput, JobData, Unauthorized
from shared.jobs.record import JobStatus, Reason

ADVICE: dict[Reason, str] = {
    Reason.DIVERGED: "Train again with half the learning rate, or with a gradient penalty.",
    Reason.OUT_OF_MEMORY: "Train again with a smaller batch or narrower networks; on a GPU bf16 takes about half.",
    Reason.DISK_FULL: "Free some space where Kiln keeps its data, then resume: it goes on from the last checkpoint.",
    Reason.WORKER_LOST: "See that a worker runs, then resume: the job goes on from its last checkpoint.",
    Reason.STALLED: "Resume it: it goes on from its last checkpoint. If it stalls again, look at the worker's log.",
    Reason.TIMEOUT: "Raise KILN_JOB_TIMEOUT_S, or train again with a smaller budget of images.",
    Reason.BAD_CONFIG: "Change the value that the message names, and train again.",
    Reason.PARITY: "The exported model did not match the trained one, so it was not published. This is worth a report.",
    Reason.ERROR: "The message below is the end of the trainer's log. If it is no help, this is worth a report.",
    Reason.CANCELLED_BY_USER: "Its samples and curves are kept; train again to get a model.",
}

STEER = {  # what can be asked of a job -> (verb, question, consequence, whether it loses something)
    "pause": ("Pause", "Pause this job?", "It leaves a checkpoint and gives its worker to other jobs.", False),
    "resume": ("Resume", "Go on with this job?", "It waits for a free worker and goes on from its checkpoint.", False),
    "finish": ("Finish now", "Stop training here?", "The model as it is now is exported and published.", False),
    "cancel": ("Cancel", "Cancel this job?", "It ends now and leaves no model. Its samples and curves stay.", True),
}  # fmt: skip

CAN: dict[str, tuple[str, ...]] = {
    JobStatus.QUEUED: ("pause", "cancel"),
    JobStatus.RUNNING: ("pause", "finish", "cancel"),
    JobStatus.PAUSED: ("resume", "finish", "cancel"),
    JobStatus.LOST: ("resume",),
}


def of_error(error: Exception, url: str) -> str:
    """Any failure to get an answer, as a sentence or two."""
    if isinstance(error, Unauthorized):
        return f"{_sentence(error.detail or error.title)} Start the dashboard with a KILN_API_KEY that may do this."
    if isinstance(error, InvalidInput) and error.problems:
        return " ".join(_sentence(of_problem(problem)) for problem in error.problems)
    if isinstance(error, ApiError):
        return _sentence(error.detail or error.title)
    if isinstance(error, httpx2.TransportError):
        return f"The API at {url} does not answer. This page goes on by itself as soon as it does."
    return _sentence(f"Something unexpected happened: {error}")


def of_problem(problem: Mapping[str, Any]) -> str:
    return f"{problem['field']}: {problem['message']} (it was {problem['value']!r})"


def of_failure(job: JobData) -> tuple[str, str]:
    """(what happened, what to do) of a job that did not succeed."""
    happened = job.error or str(job.reason or job.status).replace("_", " ")
    advice = ADVICE.get(Reason(job.reason), "") if job.reason in set(Reason) else ""
    return happened, advice


def of_job(job: JobData) -> str:
    return job.name or f"{job.preset} {job.id[-8:]}"


def duration(seconds: float | None) -> str:
    """`2 h 03 min`, `4 min 10 s`, `7 s`; nothing when unknown."""
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def ago(moment: datetime | None) -> str:
    if moment is None:
        return ""
    passed_s = (datetime.now(UTC) - moment).total_seconds()
    if passed_s < 90:
        return "just now"
    for unit_s, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if passed_s >= 2 * unit_s:
            return f"{passed_s / unit_s:.0f} {name} ago"
    return "a minute ago"


def count(n: float) -> str:
    """12, 3,400, 1.2 M."""
    return f"{n / 1e6:,.1f} M" if n >= 1e6 else f"{n:,.0f}"


def value(anything: object) -> str:
    """A value of a config or of a metric, as people write it."""
    if anything is None:
        return "–"
    if isinstance(anything, bool):
        return "yes" if anything else "no"
    if isinstance(anything, float):
        return f"{anything:.4g}"
    if isinstance(anything, int):
        return f"{anything:,}"
    if isinstance(anything, list | tuple):
        return ", ".join(value(part) for part in anything)
    return str(anything)


def _sentence(words: str) -> str:
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".") if words else ""
