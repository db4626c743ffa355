"""Both clients have the same methods, and both accept the fields and statuses of a newer server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import pytest

from kiln import AsyncJob, AsyncKiln, Event, Job, JobData, Kiln, SweepData, _requests
from kiln._retry import EventStream
from kiln.async_client import AsyncJobs, AsyncModels, AsyncPresets
from kiln.client import Jobs, Models, Presets
from kiln.datasets import AsyncDatasets, Datasets
from kiln.sweeps import AsyncSweeps, Sweeps

PAIRS = [
    (Kiln, AsyncKiln),
    (Job, AsyncJob),
    (Jobs, AsyncJobs),
    (Models, AsyncModels),
    (Presets, AsyncPresets),
    (Sweeps, AsyncSweeps),
    (Datasets, AsyncDatasets),
]
JOB = {
    "id": "1", "preset": "tiny", "dataset": "cifar10", "status": "running", "created_at": "2030-01-01T00:00:00Z",
    "progress": {"fraction": 0.5, "images_seen": 5, "images_total": 10},
}  # fmt: skip


def public_methods(owner: type) -> Mapping[str, Callable[..., Any]]:
    inherited = dir(JobData) if issubclass(owner, JobData) else ()
    return {
        name: method
        for name, method in inspect.getmembers(owner, inspect.isfunction)
        if name not in inherited and (not name.startswith("_") or name == "__init__")
    }


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=lambda owner: owner.__name__)
def test_both_clients_have_the_same_methods_with_the_same_arguments(sync: type, asynchronous: type) -> None:
    ours, theirs = public_methods(sync), public_methods(asynchronous)

    assert theirs.keys() == ours.keys()
    for name, method in ours.items():
        assert arguments(theirs[name]) == arguments(method), name


def arguments(method: Callable[..., Any]) -> list[tuple[str, str, Any, str]]:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return [(p.name, p.kind.name, p.default, str(p.annotation).replace("Async", "")) for p in parameters]


def test_both_clients_have_the_same_namespaces() -> None:
    with Kiln("http://localhost") as kiln:
        namespaces = {name for name in vars(kiln) if not name.startswith("_")}
    assert namespaces == {"datasets", "jobs", "models", "presets", "sweeps"}
    assert {name for name in vars(AsyncKiln("http://localhost")) if not name.startswith("_")} == namespaces


def test_a_status_and_fields_of_a_newer_server_are_accepted() -> None:
    newer = JOB | {"status": "hibernating", "mood": "calm", "reason": "full_moon"}
    newer["progress"] = {"fraction": 0.5, "phase": "warm-up"}

    job = JobData.model_validate(newer)

    assert (job.status, job.reason, job.progress.fraction, job.is_over) == ("hibernating", "full_moon", 0.5, False)
    assert job.model_dump()["mood"] == "calm"
    assert JobData.model_validate(newer | {"finished_at": "2030-01-02T00:00:00Z"}).is_over
    assert not JobData.model_validate(JOB).is_over
    assert JobData.model_validate(JOB | {"status": "failed"}).is_over


def test_a_sweep_of_a_newer_server_is_accepted() -> None:
    trial = {"number": 0, "params": {"lr": 1}, "state": "promoted", "rank": 1}
    sweep = SweepData.model_validate({
        "id": "1", "preset": "tiny", "dataset": "cifar10", "space": {}, "objective": {"metric": "fid", "weight": 2},
        "n_trials": 1, "status": "resting", "counts": {"promoted": 1}, "trials": [trial],
        "created_at": "2030-01-01T00:00:00Z",
    })  # fmt: skip

    assert (sweep.status, sweep.is_over, sweep.trials[0].state) == ("resting", False, "promoted")


def test_events_of_a_newer_server_are_passed_on() -> None:
    stream = EventStream("1", "", max_wait_s=0)
    job = JobData.model_validate(JOB).model_dump_json()
    body = f'event: aurora\nid: 7-0\ndata: {{"kind": "aurora", "colour": "green"}}\n\nevent: job\ndata: {job}\n\n'
    request = httpx2.Request("GET", "http://localhost")
    response = httpx2.Response(
        200, content=body.encode(), headers={"Content-Type": "text/event-stream"}, request=request
    )

    updates = [update for event in httpx2.EventSource(response) for update in stream.parse(event)]

    assert [type(update) for update in updates] == [Event, JobData]
    assert isinstance(updates[0], Event)
    assert updates[0].kind == "aurora"
    assert stream.request["headers"]["Last-Event-ID"] == "7-0"


def test_an_error_that_is_not_from_kiln_is_still_an_api_error() -> None:
    """A proxy's HTML page, with a status that HTTP does not define."""
    error = _requests.api_error(httpx2.Response(599, content=b"<html>gateway"))

    assert (error.status, error.detail) == (599, "<html>gateway")
