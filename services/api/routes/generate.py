"""Images by class."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from services.api.auth import GENERATE
from services.api.images.encoders import FORMATS
from services.api.images.generate import GenerationRequest, resolve_generation
from services.api.images.response_cache import CacheableRequest
from services.api.middleware.disconnect import cancel_on_disconnect
from services.api.schemas.images import GenerateBody, GenerateQuery
from services.api.state import AppState, State

router = APIRouter(tags=["generate"])

IfNoneMatch = Annotated[str | None, Header(description="ETags of answers to questions with a seed.")]

IMAGES: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {} for media_type, _ in FORMATS.values()}},
    304: {"description": "The answer that the client has."},
}


@router.get("/generate", response_class=Response, responses=IMAGES, dependencies=[GENERATE])
async def generate(
    query: Annotated[GenerateQuery, Query()], request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """n images of one class, or of each of several. The same model, class, seed and index give the same image."""
    return await respond(_order(query, state), request, state, if_none_match)


@router.head("/generate", include_in_schema=False, dependencies=[GENERATE])
async def generate_head(
    query: Annotated[GenerateQuery, Query()], request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """What GET would answer, without its body: the server leaves that away."""
    return await respond(_order(query, state), request, state, if_none_match)


@router.post("/generate", response_class=Response, responses=IMAGES, dependencies=[GENERATE])
async def generate_from_body(
    body: GenerateBody, request: Request, state: State, if_none_match: IfNoneMatch = None
) -> Response:
    """The same as JSON, where `class` may be a list."""
    return await respond(_order(body, state), request, state, if_none_match)


async def respond(
    asking: Awaitable[CacheableRequest], request: Request, state: AppState, if_none_match: str | None
) -> Response:
    """The answer to the question that comes of `asking`, unless the client goes first."""
    with state.telemetry.counting_refusals():
        question = await asking
        answer = await cancel_on_disconnect(request, state.answers.answer(question, if_none_match))
    return Response(answer.body, answer.status, answer.all_headers, answer.media_type or None)


async def _order(query: GenerateQuery | GenerateBody, state: AppState) -> GenerationRequest:
    return await resolve_generation(query, await state.models.get(query.model), state.classifier)
