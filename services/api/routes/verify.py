"""/verify: checks whether this server reproduces an image file."""

from __future__ import annotations

from fastapi import APIRouter, Request

from services.api.auth import GENERATE
from services.api.images.verify import verify
from services.api.middleware.disconnect import cancel_on_disconnect
from services.api.schemas.images import Verification
from services.api.state import State

router = APIRouter(tags=["generate"])

IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in ("image/png", "image/jpeg", "image/webp")
        },
    }
}


@router.post("/verify", openapi_extra=IMAGE_BODY, dependencies=[GENERATE])
async def verify_image(request: Request, state: State) -> Verification:
    """Reads the provenance of a PNG, JPEG or WebP, generates the file again, and compares both.

    `reason` explains a difference. Of a JPEG or WebP that was compressed again, it says how far the pixels are.
    """
    data = await request.body()
    return await cancel_on_disconnect(request, verify(data, state.models, state.classifier, state.encoders))
