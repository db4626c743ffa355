"""/jobs: submit, list, show and control jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from services.api.auth import READ, TRAIN
from services.api.jobs import control
from services.api.jobs.listing import list_by_status
from services.api.jobs.tables import as_csv
from services.api.schemas.generated import AnyJobRequest
from services.api.schemas.jobs import (
    JobList,
    JobListQuery,
    JobView,
    MetricsQuery,
    MetricsSeries,
    ResolvedJob,
)
from services.api.state import State

router = APIRouter(prefix="/jobs", tags=["jobs"])

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


@router.post("", status_code=202, response_model=JobView, responses={200: {"model": ResolvedJob}}, dependencies=[TRAIN])
def create_job(
    body: AnyJobRequest, response: Response, state: State, dry_run: bool = False, idempotency_key: IdempotencyKey = None
) -> Any:
    """Queues a job that trains a GAN or a classifier, or that generates a data set (`"kind": "generate"`).

    With `dry_run`, returns the resolved config and creates no job.
    """
    if dry_run:
        return JSONResponse(state.submitter.resolve(body).model_dump(mode="json"))
    job = state.submitter.submit(body, idempotency_key)
    response.headers["Location"] = f"/jobs/{job.id}"
    return JobView.of(job)


@router.get("", dependencies=[READ])
def list_jobs(query: Annotated[JobListQuery, Query()], state: State) -> JobList:
    """Lists jobs, newest first."""
    page = list_by_status(query.status, query.after, query.limit, state.store)
    return JobList(data=[JobView.of(job) for job in page.jobs], has_more=page.has_more)


@router.get("/{job_id}", dependencies=[READ])
def get_job(job_id: str, state: State) -> JobView:
    """Shows a job: status, progress, latest metrics, config."""
    return JobView.of(state.store.get(job_id))


@router.delete("/{job_id}", status_code=204, dependencies=[TRAIN])
def delete_job(job_id: str, state: State) -> None:
    """Deletes a job that is over, with its metrics, events, checkpoints and sample grids. Its model stays."""
    control.delete(job_id, state.store, state.artifacts)


@router.get(
    "/{job_id}/metrics",
    response_model=MetricsSeries,
    responses={200: {"content": {"text/csv": {}}}},
    dependencies=[READ],
)
def get_metrics(job_id: str, query: Annotated[MetricsQuery, Query()], request: Request, state: State) -> Any:
    """Returns the metrics series, one row per tick; as CSV with `Accept: text/csv`."""
    rows = state.store.metrics(state.store.get(job_id).id, query.after)
    if "text/csv" in request.headers.get("accept", ""):
        return Response(as_csv(rows), media_type="text/csv")
    return MetricsSeries(data=list(rows))


@router.post("/{job_id}/cancel", status_code=202, dependencies=[TRAIN])
def cancel_job(job_id: str, state: State) -> JobView:
    """Cancels the job. Does nothing if the job is over."""
    return JobView.of(control.request_action(job_id, "cancel", state.store, state.broker))


@router.post("/{job_id}/pause", status_code=202, dependencies=[TRAIN])
def pause_job(job_id: str, state: State) -> JobView:
    """Writes a checkpoint and frees the worker. Continue with /resume."""
    return JobView.of(control.request_action(job_id, "pause", state.store, state.broker))


@router.post("/{job_id}/resume", status_code=202, dependencies=[TRAIN])
def resume_job(job_id: str, state: State) -> JobView:
    """Continues a paused or lost job from its newest checkpoint."""
    return JobView.of(control.resume(job_id, state.store, state.broker))


@router.post("/{job_id}/finish", status_code=202, dependencies=[TRAIN])
def finish_job(job_id: str, state: State) -> JobView:
    """Stops training now, and exports and publishes the model as it is."""
    return JobView.of(control.request_action(job_id, "finish", state.store, state.broker))
