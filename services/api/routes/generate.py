"""/generate: images by class."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Header, Query, Request, Response

from services.api.auth import GENERATE
from services.api.images.encoders import FORMATS
from services.api.images.generate import GenerationRequest, resolve_generation
from services.api.images.render import ImageRequest, render
from services.api.images.response_cache import CacheableRequest
from services.api.middleware.disconnect import cancel_on_disconnect
from services.api.query_route import QueryRoute
from services.api.schemas.images import GenerateBody, GenerateQuery
from services.api.state import AppState, State

router = APIRouter(tags=["generate"], route_class=QueryRoute)

IfNoneMatch = Annotated[
    str | None, Header(description="ETags of cached responses. If one is still current, the response is 304.")
]  # fmt: skip

IMAGES: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {} for media_type, _ in FORMATS.values()}},
    304: {"description": "The client's cached response is current."},
}


@router.get("/generate", response_class=Response, responses=IMAGES, dependencies=[GENERATE])
async def generate(
    query: Annotated[GenerateQuery, Query()], request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """Generates n images per class. The same model, class, seed and index give the same image."""
    return await respond(_resolve(query, state), request, state, if_none_match)


@router.head("/generate", include_in_schema=False, dependencies=[GENERATE])
async def generate_head(
    query: Annotated[GenerateQuery, Query()], request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """Generates the response to GET; the server then omits the body."""
    return await respond(_resolve(query, state), request, state, if_none_match)


@router.post("/generate", response_class=Response, responses=IMAGES, dependencies=[GENERATE])
async def generate_from_body(
    body: GenerateBody, request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """As GET /generate, with a JSON body in which `class` may be a list."""
    return await respond(_resolve(body, state), request, state, if_none_match)


class _Request(CacheableRequest, ImageRequest[Any], Protocol):
    """A resolved request, of /generate or /interpolate."""


async def respond(
    resolving: Awaitable[_Request], request: Request, state: AppState, if_none_match: str | None
) -> Response:
    """Returns the response from the cache, or renders it. A disconnect of the client cancels the rendering."""
    with state.telemetry.counting_refusals():
        resolved = await resolving
        response = state.response_cache.find(resolved, if_none_match)
        if response is None:
            response = await cancel_on_disconnect(request, render(resolved, state.encoders))
            state.response_cache.add(response)
    return Response(response.body, response.status, response.all_headers, response.media_type or None)


async def _resolve(query: GenerateQuery | GenerateBody, state: AppState) -> GenerationRequest:
    return await resolve_generation(query, await state.models.get(query.model), state.classifier)
