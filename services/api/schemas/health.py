"""Responses of /healthz and /readyz."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Health(BaseModel):
    """Response of GET /healthz."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Response of GET /readyz: the default model, its execution provider, and what needs attention."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready"] = "ready"
    model_id: str
    provider: str
    warnings: list[str] = []
