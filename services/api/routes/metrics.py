"""/metrics: metrics in the Prometheus text format."""

from __future__ import annotations

from fastapi import APIRouter, Response

from services.api.auth import READ
from services.api.state import State

router = APIRouter(tags=["health"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, dependencies=[READ])
async def metrics(state: State) -> Response:
    """Prometheus metrics of this server; docs/reference/metrics.md lists them."""
    return Response(state.telemetry.text(), media_type=EXPOSITION)
