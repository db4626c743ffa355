"""`/uploads/...` passes an archive from the browser on to the API, which the browser has no key for."""

from __future__ import annotations

from typing import Any

import httpx2
from fastapi import Request
from fastapi.responses import JSONResponse
from nicegui import app

from kiln import ApiError
from services.dashboard.connection import Connection


def register(connection: Connection) -> None:
    @app.put("/uploads/{name:path}")
    async def push_dataset(name: str, request: Request) -> JSONResponse:
        """Streams the body, piece by piece. A page of another origin cannot send it: PUT needs its consent (CORS)."""
        try:
            size = int(request.headers.get("content-length", "0"))
            dataset = await connection.kiln.datasets.push_stream(name, request.stream, size)
        except ApiError as error:
            return _problem(error.detail or error.title, error.status)
        except httpx2.TransportError as error:
            return _problem(f"The API at {connection.url} is not responding: {error}", 502)
        return JSONResponse({"name": dataset.name})


def _problem(detail: Any, status: int) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
