"""/sweeps: hyper-parameter searches. Each trial is a job."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from services.api.auth import READ, TRAIN
from services.api.jobs import plots
from services.api.jobs.submit import idempotency_of
from services.api.routes.jobs import IdempotencyKey
from services.api.routes.models import promote
from services.api.schemas.models import AliasView
from services.api.schemas.sweeps import (
    PromoteRequest,
    ResolvedSweep,
    SweepList,
    SweepListQuery,
    SweepRequest,
    SweepSummary,
    SweepView,
)
from services.api.state import State
from services.api.sweeps import optuna_study
from shared.errors import NothingToPromote

router = APIRouter(prefix="/sweeps", tags=["sweeps"])

PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
RESOLVED: dict[int | str, dict[str, Any]] = {200: {"model": ResolvedSweep}}


@router.post("", status_code=202, response_model=SweepView, responses=RESOLVED, dependencies=[TRAIN])
def create_sweep(
    body: SweepRequest, response: Response, state: State, dry_run: bool = False, idempotency_key: IdempotencyKey = None
) -> Any:
    """Starts a sweep; its trials are ordinary jobs. With `dry_run`, validates the request and starts nothing."""
    resolved = state.submitter.resolve_sweep(body)
    if dry_run:
        return JSONResponse(resolved.model_dump(mode="json"))
    sweep = state.sweep_runner.start(resolved.plan, body.name, idempotency_of(body, idempotency_key))
    response.headers["Location"] = f"/sweeps/{sweep.id}"
    return SweepView.of(sweep)


@router.get("", dependencies=[READ])
def list_sweeps(query: Annotated[SweepListQuery, Query()], state: State) -> SweepList:
    """Lists the sweeps, newest first, each with its best trial only."""
    page = state.sweeps.list(query.after, query.limit)
    return SweepList(data=[SweepSummary.of(sweep) for sweep in page.sweeps], has_more=page.has_more)


@router.get("/{sweep_id}", dependencies=[READ])
def get_sweep(sweep_id: str, state: State) -> SweepView:
    """Shows a sweep with all its trials: values, jobs, results."""
    return SweepView.of(state.sweeps.get(sweep_id))


@router.get("/{sweep_id}/history.png", response_class=Response, responses=PNG, dependencies=[READ])
def get_history(sweep_id: str, state: State) -> Response:
    """Plots the objective of each trial, and the best so far."""
    return Response(plots.sweep_png(state.sweeps.get(sweep_id)), media_type="image/png")


@router.get("/{sweep_id}/importances.png", response_class=Response, responses=PNG, dependencies=[READ])
def get_importances(sweep_id: str, state: State) -> Response:
    """Plots how much each varied field matters for the objective."""
    sweep = state.sweeps.get(sweep_id)
    return Response(plots.importances_png(optuna_study.importances(sweep), sweep), media_type="image/png")


@router.post("/{sweep_id}/cancel", status_code=202, dependencies=[TRAIN])
def cancel_sweep(sweep_id: str, state: State) -> SweepView:
    """Cancels the sweep and its unfinished jobs. Does nothing if the sweep is over."""
    return SweepView.of(state.sweep_runner.cancel(sweep_id))


@router.post("/{sweep_id}/promote", dependencies=[TRAIN])
async def promote_best(sweep_id: str, state: State, body: PromoteRequest | None = None) -> AliasView:
    """Points an alias (`default` unless given) at the model of the best trial so far."""
    best = (await run_in_threadpool(state.sweeps.get, sweep_id)).best
    if best is None or best.model_id is None:
        raise NothingToPromote(f"no trial of sweep {sweep_id} has a model yet")
    return await promote((body or PromoteRequest()).alias, best.model_id, state)
