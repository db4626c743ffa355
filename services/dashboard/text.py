"""Text on the pages: error messages, advice after a failure, the wording of actions, formatted numbers and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2

from kiln import ApiError, InvalidInput, JobData, Unauthorized

ADVICE = {  # reason of a job that did not succeed -> what the user can do
    "diverged": "Train again with half the learning rate, or with a gradient penalty.",
    "oom": "Train again with a smaller batch size or fewer channels. On a GPU, bf16 needs about half the memory.",
    "disk_full": "Free disk space in KILN_DATA, then resume the job. It continues from its last checkpoint.",
    "environment": "Restore what the message names, then resume the job. It continues from its last checkpoint.",
    "worker_lost": "Check that a worker is running, then resume the job. It continues from its last checkpoint.",
    "stalled": "Resume the job. It continues from its last checkpoint. If it stalls again, read the worker's log.",
    "timeout": "Raise KILN_JOB_TIMEOUT_S, or train again with a smaller total_nimg.",
    "bad_config": "Correct the value named in the message and train again.",
    "parity": "The ONNX export did not match the PyTorch model, so it was not published. Please report this as a bug.",
    "error": "The message is the end of the training log. If you cannot solve the problem, please report it as a bug.",
    "cancelled_by_user": "Sample grids and metrics are kept. To get a model, train again.",
}


@dataclass(frozen=True)
class Action:
    """How one action on a job is presented, on its button and in its confirmation dialog."""

    label: str
    confirm_label: str
    question: str
    consequence: str
    while_running: str = ""  # the message after the request, while the job still runs
    is_destructive: bool = False


ACTIONS = {
    "pause": Action(
        "Pause", "Pause job", "Pause this job?",
        "It saves a checkpoint and frees its worker.",
        "pausing after the current step.",
    ),
    "resume": Action(
        "Resume", "Resume job", "Resume this job?",
        "It joins the queue and continues from its last checkpoint.",
    ),
    "finish": Action(
        "Finish now", "Finish now", "Stop now and keep the result?",
        "The model is published in its present state, or the data set with the images so far.",
        "finishing after the current step.",
    ),
    "cancel": Action(
        "Cancel", "Cancel job", "Cancel this job?",
        "It stops and publishes nothing. Sample grids and metrics are kept.",
        "stopping.", is_destructive=True,
    ),
}  # fmt: skip

DELETE = Action(
    "Delete", "Delete job", "Delete this job?",
    "Its metrics, events, checkpoints, sample grids and generated data set are deleted permanently. "
    "Its model is kept.",
    is_destructive=True,
)  # fmt: skip

ACTIONS_BY_STATUS = {
    "queued": ("pause", "cancel"),
    "running": ("pause", "finish", "cancel"),
    "paused": ("resume", "finish", "cancel"),
    "lost": ("resume",),
}


def error_message(error: Exception, url: str) -> str:
    """What the page shows when a request to the API fails."""
    if isinstance(error, Unauthorized):
        return (
            f"{_sentence(error.detail or error.title)} Restart the dashboard with a KILN_API_KEY that has this scope."
        )
    if isinstance(error, InvalidInput) and error.problems:
        return " ".join(_sentence(problem_message(problem)) for problem in error.problems)
    if isinstance(error, ApiError):
        return _sentence(error.detail or error.title)
    if isinstance(error, httpx2.TransportError):
        return f"The API at {url} is not responding. This page reconnects automatically."
    return _sentence(f"Unexpected error: {error}")


def problem_message(problem: Mapping[str, Any]) -> str:
    return f"{problem['field']}: {problem['message']} (got {problem['value']!r})"


def failure_message(job: JobData) -> tuple[str, str]:
    """(what happened, what to do) for a job that did not succeed."""
    happened = job.error or str(job.reason or job.status).replace("_", " ")
    return happened, ADVICE.get(str(job.reason), "")


def job_title(job: JobData) -> str:
    return job.name or f"{job.preset} {job.id[-8:]}"


def duration(seconds: float | None) -> str:
    """`2 h 03 min`, `4 min 10 s`, `7 s`; an empty string for None."""
    if seconds is None:
        return ""
    rounded = round(seconds)
    hours, minutes, rest = rounded // 3600, rounded // 60 % 60, rounded % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def time_ago(moment: datetime | None) -> str:
    if moment is None:
        return ""
    passed_s = (datetime.now(UTC) - moment).total_seconds()
    if passed_s < 90:
        return "just now"
    for unit_s, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if passed_s >= 2 * unit_s:
            return f"{passed_s / unit_s:.0f} {name} ago"
    return "a minute ago"


def format_count(n: float) -> str:
    """12, 3,400, 1.2 M, 250 M."""
    if n < 1e6:
        return f"{n:,.0f}"
    return f"{n / 1e6:,.1f} M" if n < 1e8 else f"{n / 1e6:,.0f} M"


def format_bytes(size: float) -> str:
    """`812 B`, `3.4 MB`, `12 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def format_value(value: object) -> str:
    """A config value or a metric, for display."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(part) for part in value)
    return str(value)


def format_parameter(parameter: Mapping[str, Any]) -> str:
    """The values of a sweep's parameter: `0.0001 to 0.002, logarithmic`, `16 to 64, step 16`, `hinge, bce`."""
    if "choices" in parameter:
        return format_value(parameter["choices"])
    notes = ["logarithmic"] if parameter.get("log") else []
    if parameter.get("step", 1) != 1:
        notes.append(f"step {parameter['step']}")
    return ", ".join([f"{format_value(parameter['low'])} to {format_value(parameter['high'])}", *notes])


def _sentence(words: str) -> str:
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".") if words else ""
