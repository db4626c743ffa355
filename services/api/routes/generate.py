"""Images by class."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from services.api.dependencies import Kiln
from services.api.disconnects import unless_gone
from services.api.generation import generate_sheet
from services.api.schemas import GenerateQuery
from services.api.security import GENERATE

router = APIRouter(tags=["generate"])


@router.get(
    "/generate", response_class=Response, responses={200: {"content": {"image/png": {}}}}, dependencies=[GENERATE]
)
async def generate(query: Annotated[GenerateQuery, Query()], request: Request, kiln: Kiln) -> Response:
    """A PNG of n images of one class. The same model, class and seed give the same images, and n=4 begins n=16."""
    sheet = await unless_gone(request, generate_sheet(query, await kiln.models.get(query.model), kiln.bench))
    return Response(sheet.png, media_type="image/png", headers=dict(sheet.headers))
