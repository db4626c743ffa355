"""From one image to another."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from services.api.auth import GENERATE
from services.api.images.interpolate import Interpolation
from services.api.routes.generate import IfNoneMatch, respond
from services.api.schemas.images import InterpolateQuery
from services.api.state import AppState, State

router = APIRouter(tags=["generate"])

STRIPS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/apng": {}}},
    304: {"description": "The answer that the client has."},
}


@router.get("/interpolate", response_class=Response, responses=STRIPS, dependencies=[GENERATE])
async def interpolate(
    query: Annotated[InterpolateQuery, Query()], request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """In `steps` images from one class and latent vector to another; the first and the last are those of /generate."""
    return await respond(_question(query, state), request, state, if_none_match)


async def _question(query: InterpolateQuery, state: AppState) -> Interpolation:
    return Interpolation(query, await state.models.get(query.model))
