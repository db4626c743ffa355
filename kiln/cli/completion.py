"""Shell completion: names of presets, fields, statuses, jobs and models, as the API knows them.

Without a response of the API, it completes nothing and shows no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import httpx2

from kiln.client import Kiln
from kiln.errors import KilnError
from kiln.types import JobStatus

TIMEOUT_S = 2.0


def complete_preset(incomplete: str) -> list[str]:
    return _matching(incomplete, lambda kiln: [preset["name"] for preset in kiln.presets.list()])


def complete_override(incomplete: str) -> list[str]:
    return _matching(incomplete, _fields)


def complete_status(incomplete: str) -> list[str]:
    return _matching(incomplete, _statuses) or [status for status in JobStatus if status.startswith(incomplete)]


def complete_job(incomplete: str) -> list[str]:
    return _matching(incomplete, lambda kiln: [job.id for job in kiln.jobs.list(limit=50)])


def complete_model(incomplete: str) -> list[str]:
    return _matching(incomplete, lambda kiln: [model.id for model in kiln.models.list()])


def complete_dataset(incomplete: str) -> list[str]:
    return _matching(incomplete, lambda kiln: [dataset.name for dataset in kiln.datasets.list()])


def complete_sweep(incomplete: str) -> list[str]:
    return _matching(incomplete, lambda kiln: [sweep.id for sweep in kiln.sweeps.list()])


def _fields(kiln: Kiln) -> Iterable[str]:
    return dict.fromkeys(f"{field}=" for preset in kiln.presets.list() for field in preset["config"])


def _statuses(kiln: Kiln) -> list[str]:
    statuses: list[str] = kiln.get("/openapi.json").json()["components"]["schemas"]["JobStatus"]["enum"]
    return statuses


def _matching(incomplete: str, names: Callable[[Kiln], Iterable[str]]) -> list[str]:
    try:
        with Kiln(max_wait_s=0, timeout_s=TIMEOUT_S) as kiln:
            return [name for name in names(kiln) if name.startswith(incomplete)]
    except (KilnError, httpx2.TransportError, KeyError):  # KeyError: a server whose document differs
        return []
