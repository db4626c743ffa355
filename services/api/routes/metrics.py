"""Figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from services.api.auth import READ
from services.api.state import State

router = APIRouter(tags=["health"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, dependencies=[READ])
async def metrics(state: State) -> Response:
    """Seconds in the queue, in onnxruntime and in the encoder, sizes of batches, refusals; see docs/serving.md."""
    return Response(state.telemetry.text(), media_type=EXPOSITION)
