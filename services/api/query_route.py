"""A fast GET route: it parses its query with one pydantic model and skips FastAPI's dependency solving."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import SecurityScopes
from pydantic import BaseModel, ValidationError

from services.api.auth import authorize, bearer
from services.api.state import state_of


class QueryRoute(APIRoute):
    """For endpoints `(query, request, state, if_none_match)` whose `query` is a pydantic model.

    FastAPI takes 0.3 ms per request to solve such a route's dependencies; in that time a small network generates an
    image (docs/explanation/decisions/0023-one-path-to-an-image.md). The route's decorators still document it, and the
    scopes of `dependencies` are checked as in every route. FastAPI handles endpoints without `query`.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        query_type = get_type_hints(self.endpoint).get("query")
        if query_type is None:
            return super().get_route_handler()
        scopes = [SecurityScopes(list(getattr(dependency, "scopes", None) or ())) for dependency in self.dependencies]

        async def handle(request: Request) -> Response:
            state = state_of(request)
            for needed in scopes:
                await authorize(needed, await bearer(request), state)
            response: Response = await self.endpoint(
                _parse(query_type, request), request, state, request.headers.get("if-none-match")
            )
            return response

        return handle


def _parse(query_type: type[BaseModel], request: Request) -> BaseModel:
    """Raises RequestValidationError, as FastAPI does."""
    try:
        return query_type.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("query", *e["loc"])} for e in error.errors()]) from None
