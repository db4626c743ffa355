"""/healthz and /readyz: liveness and readiness probes."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.schemas.health import Health, Readiness
from services.api.state import State
from shared.errors import Draining

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process responds."""
    return Health()


@router.get("/readyz")
async def readyz(state: State) -> Readiness:
    """Redis responds and the default model is warm: it has run a batch. Otherwise 503 with the reason."""
    if state.drain.is_on:
        raise Draining("draining: this process is shutting down")
    warnings = await state.store_health.check()
    model = await state.models.get(None)
    warnings = [*warnings, *([model.warning] if model.warning else [])]
    return Readiness(model_id=model.manifest.id, provider=model.provider, warnings=warnings)
