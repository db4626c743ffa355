"""The base class of all request models: it refuses fields that the API does not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """A query or a body. An unknown field is a 422, so that a misspelt name never passes unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
