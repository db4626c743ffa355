"""`/files/...` forwards images and tables of the API to the browser, which has no API key of its own."""

from __future__ import annotations

import re

import httpx2
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from nicegui import app

from kiln import ApiError
from services.dashboard.connection import Connection

# Only these paths of the API are forwarded.
ALLOWED_PATHS = re.compile(
    r"generate|interpolate|compare|models/[\w.-]+/(?:preview|neighbours)\.png|sweeps/[\w.-]+/\w+\.png|datasets/[\w.-]+/preview\.png"
    r"|jobs/[\w.-]+/(?:samples/\d+\.png|samples\.png|losses\.png|metrics)"
)
DATASET = re.compile(r"jobs/([\w.-]+)/dataset/download")
MEDIA_TYPES = {"png": "image/png", "csv": "text/csv", "markdown": "text/markdown", "zip": "application/zip"}
FORWARDED_HEADERS = ("content-type", "cache-control", "etag", "content-disposition")


def register(connection: Connection) -> None:
    @app.get("/files/{path:path}")
    async def read_file(path: str, request: Request) -> Response:
        """The file at this path of the API. The query parameter `as` selects the format: png, csv, markdown or zip."""
        if archive := DATASET.fullmatch(path):
            return await _stream_dataset(connection, archive[1])
        if not ALLOWED_PATHS.fullmatch(path):
            return Response(f"the dashboard serves no file {path!r}", 404, media_type="text/plain")
        query = {name: value for name, value in request.query_params.items() if name != "as"}
        accept = MEDIA_TYPES.get(request.query_params.get("as", "png"), "*/*")
        try:
            response = await connection.read_file(path, query, accept)
        except ApiError as error:
            return Response(str(error), error.status, media_type="text/plain")
        except httpx2.TransportError as error:
            return Response(str(error), 502, media_type="text/plain")
        headers = {name: response.headers[name] for name in FORWARDED_HEADERS if name in response.headers}
        return Response(response.content, headers=headers)


async def _stream_dataset(connection: Connection, job_id: str) -> Response:
    """The data set of a job, passed on in parts, because it may be larger than the memory."""
    try:
        manifest = await connection.kiln.jobs.dataset(job_id)
    except ApiError as error:
        return Response(str(error), error.status, media_type="text/plain")
    except httpx2.TransportError as error:
        return Response(str(error), 502, media_type="text/plain")
    suffix = "zip" if manifest["format"] == "imagefolder" else "tar"
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.{suffix}"'}
    return StreamingResponse(connection.kiln.jobs.stream_dataset(job_id), headers=headers)
