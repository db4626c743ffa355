"""Pictures of what happened: sample grids, loss curves, jobs side by side."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from services.api.auth import READ
from services.api.jobs import comparison, plots, sample_grids
from services.api.jobs.tables import as_csv, as_markdown
from services.api.schemas.jobs import CompareQuery, Comparison, LossesQuery, Sample, SampleList, StripQuery
from services.api.state import State
from shared.errors import UnknownSample

router = APIRouter(tags=["jobs"], dependencies=[READ])

PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}
TABLE: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}, "text/markdown": {}, "image/png": {}}}}


@router.get("/jobs/{job_id}/samples")
def list_samples(job_id: str, state: State) -> SampleList:
    """The sample grids, oldest first: the same latents over the whole run, a hundred images each."""
    state.store.get(job_id)
    url = f"/jobs/{job_id}/samples"
    positions = sample_grids.sample_positions(job_id, state)
    return SampleList(data=[Sample(nimg=nimg, url=f"{url}/{nimg}.png") for nimg in positions])


@router.get("/jobs/{job_id}/samples/{nimg}.png", response_class=Response, responses=PNG)
def get_sample(job_id: str, nimg: Annotated[int, Path(ge=0, lt=10**12)], state: State) -> Response:
    """The grid after so many images."""
    return _png(sample_grids.read_sample(state.store.get(job_id).id, nimg, state))


@router.get("/jobs/{job_id}/samples.png", response_class=Response, responses=PNG)
def get_strip(job_id: str, query: Annotated[StripQuery, Query()], state: State) -> Response:
    """Some of the grids, evenly spread over the training or at the epochs that are named, side by side."""
    positions = sample_grids.choose(
        sample_grids.sample_positions(state.store.get(job_id).id, state), query.count, query.wanted_nimg
    )
    if not positions:
        raise UnknownSample(f"of job {job_id}")
    return _png(plots.strip_png([sample_grids.read_sample(job_id, nimg, state) for nimg in positions]))


@router.get("/jobs/{job_id}/losses.png", response_class=Response, responses=PNG)
def get_losses(job_id: str, query: Annotated[LossesQuery, Query()], state: State) -> Response:
    """Both losses over epochs, or over the images seen where an epoch's length is not known."""
    (run,) = comparison.read_runs([job_id], state, query.images_per_epoch)
    return _png(plots.losses_png(run.rows, run.label, run.images_per_epoch))


@router.get("/compare", response_model=Comparison, responses=TABLE)
def compare(query: Annotated[CompareQuery, Query()], request: Request, state: State) -> Any:
    """Jobs side by side: losses of the first and the last epoch, D's accuracies, time, figures, and how configs differ.

    JSON, or as `Accept` says CSV, Markdown, or a PNG with curves above and sample grids below.
    """
    runs = comparison.read_runs(query.job_ids, state, query.images_per_epoch)
    rows, configs = [run.summary() for run in runs], comparison.differences(runs)
    accept = request.headers.get("accept", "")
    if "image/png" in accept:
        grids = {run.label: sample_grids.latest_grid(run.job.id, state) for run in runs}
        return _png(plots.curves_png({run.label: run.rows for run in runs}, grids, comparison.common_epoch(runs)))
    flat = [row | config for row, config in zip(rows, configs, strict=True)]
    if "text/csv" in accept:
        return Response(as_csv(flat), media_type="text/csv")
    if "text/markdown" in accept:
        return Response(as_markdown(flat), media_type="text/markdown")
    return Comparison(data=[row | {"config": config} for row, config in zip(rows, configs, strict=True)])


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png")
