"""Training jobs: submit, look at, steer."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from services.api.auth import READ, TRAIN
from services.api.jobs.submit import resolve_request, send, submit
from services.api.jobs.tables import as_csv
from services.api.schemas.jobs import (
    JobList,
    JobListQuery,
    JobRequest,
    JobView,
    MetricsQuery,
    MetricsSeries,
    ResolvedJob,
)
from services.api.state import State
from shared.jobs import transitions
from shared.jobs.record import JobStatus

router = APIRouter(prefix="/jobs", tags=["jobs"])

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


@router.post("", status_code=202, response_model=JobView, responses={200: {"model": ResolvedJob}}, dependencies=[TRAIN])
def create_job(
    body: JobRequest, response: Response, state: State, dry_run: bool = False, idempotency_key: IdempotencyKey = None
) -> Any:
    """Queues a training job. With `dry_run` it only answers what would be trained."""
    if dry_run:
        config = resolve_request(body, state)
        resolved = ResolvedJob(preset=body.preset, dataset=body.dataset, config=config)
        return JSONResponse(resolved.model_dump(mode="json"))
    job = submit(body, idempotency_key, state)
    response.headers["Location"] = f"/jobs/{job.id}"
    return JobView.of(job)


@router.get("", dependencies=[READ])
def list_jobs(query: Annotated[JobListQuery, Query()], state: State) -> JobList:
    """Jobs, newest first."""
    page = state.store.list(query.status, query.after, query.limit)
    return JobList(data=[JobView.of(job) for job in page.jobs], has_more=page.has_more)


@router.get("/{job_id}", dependencies=[READ])
def get_job(job_id: str, state: State) -> JobView:
    return JobView.of(state.store.get(job_id))


@router.get(
    "/{job_id}/metrics",
    response_model=MetricsSeries,
    responses={200: {"content": {"text/csv": {}}}},
    dependencies=[READ],
)
def get_metrics(job_id: str, query: Annotated[MetricsQuery, Query()], request: Request, state: State) -> Any:
    """The metrics series, one row per tick; as CSV with `Accept: text/csv`."""
    state.store.get(job_id)
    rows = state.store.metrics(job_id, query.after)
    if "text/csv" in request.headers.get("accept", ""):
        return Response(as_csv(rows), media_type="text/csv")
    return MetricsSeries(data=list(rows))


@router.post("/{job_id}/cancel", status_code=202, dependencies=[TRAIN])
def cancel_job(job_id: str, state: State) -> JobView:
    """Ends the job, wherever it is. Once it is over this changes nothing."""
    return JobView.of(state.store.update(job_id, partial(transitions.request_action, request="cancel")))


@router.post("/{job_id}/pause", status_code=202, dependencies=[TRAIN])
def pause_job(job_id: str, state: State) -> JobView:
    """Leaves a checkpoint and gives the worker to other jobs."""
    return JobView.of(state.store.update(job_id, partial(transitions.request_action, request="pause")))


@router.post("/{job_id}/resume", status_code=202, dependencies=[TRAIN])
def resume_job(job_id: str, state: State) -> JobView:
    """Goes on from the checkpoint of a paused job."""
    job = state.store.update(job_id, transitions.resume)
    return JobView.of(send(job, state) if job.status is JobStatus.QUEUED and job.enqueued_at is None else job)


@router.post("/{job_id}/finish", status_code=202, dependencies=[TRAIN])
def finish_job(job_id: str, state: State) -> JobView:
    """Stops training now and keeps the model so far."""
    return JobView.of(state.store.update(job_id, partial(transitions.request_action, request="finish")))
