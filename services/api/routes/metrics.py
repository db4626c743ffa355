"""Figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from services.api.auth import READ
from services.api.state import Kiln

router = APIRouter(tags=["health"])

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, dependencies=[READ])
async def metrics(kiln: Kiln) -> Response:
    """Seconds in the queue, in onnxruntime and in the encoder, sizes of batches, refusals; see docs/serving.md."""
    return Response(kiln.telemetry.text(), media_type=EXPOSITION)
