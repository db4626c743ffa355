"""Requests and responses of /models and /aliases."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.api.schemas.request import RequestModel
from shared.storage.model_registry import ModelManifest


class AliasRequest(RequestModel):
    """Body of PUT /aliases/{alias}."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_id: Annotated[str, Field(min_length=1, max_length=200)]


class AliasView(BaseModel):
    """An alias and the model that it points at."""

    model_config = ConfigDict(protected_namespaces=())

    alias: str
    model_id: str


class ModelView(BaseModel):
    """A published model as the API shows it."""

    model_config = ConfigDict(protected_namespaces=())

    manifest: ModelManifest
    aliases: list[str]
    refused: str | None  # why this server cannot serve it
    provider: str | None  # the execution provider, while the model is in memory
    memory_bytes: int | None  # estimated, while the model is in memory


class ModelList(BaseModel):
    """Published models, newest first."""

    data: list[ModelView]
