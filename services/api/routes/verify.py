"""/verify: checks whether this server reproduces a PNG."""

from __future__ import annotations

from fastapi import APIRouter, Request

from services.api.auth import GENERATE
from services.api.images.verify import verify
from services.api.middleware.disconnect import cancel_on_disconnect
from services.api.schemas.images import Verification
from services.api.state import State

router = APIRouter(tags=["generate"])

PNG_BODY = {
    "requestBody": {
        "required": True,
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/verify", openapi_extra=PNG_BODY, dependencies=[GENERATE])
async def verify_png(request: Request, state: State) -> Verification:
    """Reads a PNG's provenance, generates the file again, and compares both. `reason` explains a difference."""
    png = await request.body()
    return await cancel_on_disconnect(request, verify(png, state.models, state.classifier, state.encoders))
