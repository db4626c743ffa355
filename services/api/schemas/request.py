"""The base class of all request models; it refuses unknown fields."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """A query or a body. An unknown field is an error (422), because it may be a misspelt name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
