"""/datasets: push, list, show, preview and delete data sets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from services.api.auth import READ, TRAIN
from services.api.schemas.datasets import DatasetDetails, DatasetList
from services.api.state import State

router = APIRouter(prefix="/datasets", tags=["datasets"])

DatasetName = Annotated[str, Path(min_length=1, max_length=200)]

ARCHIVE_BODY = {
    "requestBody": {
        "required": True,
        "description": "A ZIP or a tar (plain, .gz, .bz2 or .xz).",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/zip", "application/x-tar", "application/octet-stream")
        },
    }
}


@router.put(
    "/{name}", openapi_extra=ARCHIVE_BODY, responses={201: {"model": DatasetDetails}}, dependencies=[TRAIN]
)  # fmt: skip
async def push_dataset(name: DatasetName, request: Request, response: Response, state: State) -> DatasetDetails:
    """Stores an archive of images as a data set. `my photos` gets the name `my-photos`.

    The layouts are `train/<class>/*` with an optional `test/<class>/*`, `<class>/*`, and a folder of images. Pushing
    the same files again changes nothing. 409 while a job that is not over needs the data set that would be replaced.
    """
    length = request.headers.get("content-length", "")
    declared_bytes = int(length[:20]) if length.isdigit() else None
    dataset, is_new = await state.pusher.push(name, request.stream(), declared_bytes)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/datasets/{dataset.name}"
    return state.datasets.of_pushed(dataset)


@router.get("", dependencies=[READ])
def list_datasets(state: State) -> DatasetList:
    """Lists the pushed data sets and the folders below KILN_DATASETS."""
    return DatasetList(data=state.datasets.list())


@router.get("/{name}", dependencies=[READ])
def get_dataset(name: DatasetName, state: State) -> DatasetDetails:
    """Shows a data set: classes, counts, sizes, and each file that is not read, with the reason.

    The first request for a folder reads all of its images, which may take minutes.
    """
    return state.datasets.details(name)


@router.get(
    "/{name}/preview.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
    dependencies=[READ],
)
def get_preview(name: DatasetName, state: State) -> Response:
    """Returns a sheet of up to ten training images of each class."""
    return Response(state.datasets.preview(name), media_type="image/png")


@router.delete("/{name}", status_code=204, dependencies=[TRAIN])
def delete_dataset(name: DatasetName, state: State) -> None:
    """Deletes a pushed data set. 409 while a job that is not over needs it, and for a folder."""
    state.pusher.delete(name)
