"""/jobs/{job_id}/dataset: the data set that a job has generated, its shards, and all of it as one file."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from services.api.auth import READ
from services.api.jobs.dataset_archive import archive_name, stream_archive
from services.api.state import AppState, State
from shared.errors import UnknownGeneratedDataset
from shared.storage.generated_datasets import DatasetManifest, GeneratedDatasets

router = APIRouter(prefix="/jobs/{job_id}/dataset", tags=["jobs"], dependencies=[READ])

MEDIA_TYPES = {"imagefolder": "application/zip", "webdataset": "application/x-tar"}
FILE: dict[int | str, dict[str, Any]] = {200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}}


@router.get("")
def get_dataset(job_id: str, state: State) -> DatasetManifest:
    """Describes the data set that a job has generated: model, seed, images of each class, files with their digests."""
    return _datasets(state).manifest(state.store.get(job_id).id)


@router.get("/download", response_class=Response, responses=FILE)
def download_dataset(job_id: str, state: State) -> StreamingResponse:
    """Returns the whole data set as one file: a ZIP with a folder per class, or a tar of tar shards."""
    datasets = _datasets(state)
    manifest = datasets.manifest(state.store.get(job_id).id)
    headers = {"Content-Disposition": f'attachment; filename="{archive_name(job_id, manifest)}"'}
    return StreamingResponse(stream_archive(job_id, manifest, datasets), 200, headers, MEDIA_TYPES[manifest.format])


@router.get("/{file}", response_class=Response, responses=FILE)
def get_shard(
    job_id: str, file: Annotated[str, Path(pattern=r"^shard-[0-9]{5,9}\.(zip|tar)$")], state: State
) -> Response:
    """Returns one file of the data set. A program reads them one by one, and can continue after a failure."""
    datasets = _datasets(state)
    manifest = datasets.manifest(state.store.get(job_id).id)
    shard = next((shard for shard in manifest.shards if shard.name == file), None)
    if shard is None:
        raise UnknownGeneratedDataset(f"{job_id} with a file {file}")
    return Response(datasets.read_shard(job_id, shard), media_type=MEDIA_TYPES[manifest.format])


def _datasets(state: AppState) -> GeneratedDatasets:
    return GeneratedDatasets(state.artifacts)
