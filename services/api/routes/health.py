"""Live, and ready."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool

from services.api.dependencies import Kiln
from services.api.schemas import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz")
async def readyz(kiln: Kiln) -> Readiness:
    """Redis answers and the default model is warm: a real batch has run. 503 otherwise, with the reason."""
    await run_in_threadpool(kiln.store.ping)
    model = await kiln.models.get(None)
    return Readiness(model_id=model.manifest.id, provider=model.provider)
