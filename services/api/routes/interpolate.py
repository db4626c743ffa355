"""/interpolate: images on a path from one image to another."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from services.api.auth import GENERATE
from services.api.images.interpolate import InterpolationRequest, resolve_interpolation
from services.api.query_route import QueryRoute
from services.api.routes.generate import IfNoneMatch, respond
from services.api.schemas.images import InterpolateQuery
from services.api.state import AppState, State

router = APIRouter(tags=["generate"], route_class=QueryRoute)

STRIPS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/apng": {}}},
    304: {"description": "The client's cached response is current."},
}


@router.get("/interpolate", response_class=Response, responses=STRIPS, dependencies=[GENERATE])
async def interpolate(
    query: Annotated[InterpolateQuery, Query()], request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """Interpolates in `steps` images between two classes and latent vectors. Both ends equal images of /generate."""
    return await respond(_resolve(query, state), request, state, if_none_match)


async def _resolve(query: InterpolateQuery, state: AppState) -> InterpolationRequest:
    return resolve_interpolation(query, await state.models.get(query.model))
