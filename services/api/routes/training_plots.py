"""Plots of training runs: sample grids, loss curves, and the comparison of several jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from services.api.auth import READ
from services.api.jobs import comparison, plots, sample_grids
from services.api.jobs.tables import as_csv, as_markdown
from services.api.schemas.jobs import CompareQuery, Comparison, LossesQuery, Sample, SampleList, StripQuery
from services.api.state import State
from shared.storage.artifacts import ArtifactStore

router = APIRouter(tags=["jobs"], dependencies=[READ])

PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
TABLE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}, "text/markdown": {}, "image/png": {}}}}


@router.get("/jobs/{job_id}/samples")
def list_samples(job_id: str, state: State) -> SampleList:
    """Lists the sample grids, oldest first. All grids show the same hundred latent vectors."""
    positions = sample_grids.sample_positions(state.store.get(job_id).id, state.artifacts)
    return SampleList(data=[Sample(nimg=nimg, url=f"/jobs/{job_id}/samples/{nimg}.png") for nimg in positions])


@router.get("/jobs/{job_id}/samples/{nimg}.png", response_class=Response, responses=PNG)
def get_sample(job_id: str, nimg: Annotated[int, Path(ge=0, lt=10**12)], state: State) -> Response:
    """Returns the sample grid made after `nimg` images."""
    return _png(sample_grids.read_sample(state.store.get(job_id).id, nimg, state.artifacts))


@router.get("/jobs/{job_id}/samples.png", response_class=Response, responses=PNG)
def get_strip(job_id: str, query: Annotated[StripQuery, Query()], state: State) -> Response:
    """Returns several sample grids side by side: evenly spread over the training, or nearest to the given epochs."""
    job = state.store.get(job_id)
    return _png(plots.strip_png(sample_grids.read_samples(job.id, query.count, query.wanted_nimg, state.artifacts)))


@router.get("/jobs/{job_id}/losses.png", response_class=Response, responses=PNG)
def get_losses(job_id: str, query: Annotated[LossesQuery, Query()], state: State) -> Response:
    """Plots both losses over epochs, or over images seen if the length of an epoch is unknown."""
    (run,) = comparison.read_runs([job_id], state.store, state.registry, query.images_per_epoch)
    return _png(plots.losses_png(run.rows, run.label, run.images_per_epoch))


@router.get("/compare", response_model=Comparison, responses=TABLE)
def compare(query: Annotated[CompareQuery, Query()], request: Request, state: State) -> Any:
    """Compares jobs: first and last losses, accuracies of D, time, model metrics, and the config fields that differ.

    `Accept` selects the format: JSON (the default), CSV, Markdown, or a PNG of loss curves and sample grids.
    """
    runs = comparison.read_runs(query.job_ids, state.store, state.registry, query.images_per_epoch)
    accept = request.headers.get("accept", "")
    if "image/png" in accept:
        return _png(_curves(runs, state.artifacts))
    rows = list(zip([run.summary() for run in runs], comparison.differences(runs), strict=True))
    for media_type, formatted in (("text/csv", as_csv), ("text/markdown", as_markdown)):
        if media_type in accept:
            return Response(formatted([row | config for row, config in rows]), media_type=media_type)
    return Comparison(data=[row | {"config": config} for row, config in rows])


def _curves(runs: Sequence[comparison.Run], artifacts: ArtifactStore) -> bytes:
    grids = {run.label: sample_grids.latest_sample(run.job.id, artifacts) for run in runs}
    return plots.curves_png({run.label: run.rows for run in runs}, grids, comparison.common_epoch(runs))


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png")
