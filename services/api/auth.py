"""Checks API keys and their scopes.

Each route declares its scope in its decorator: `dependencies=[READ]`, `[GENERATE]` or `[TRAIN]`. A test ensures that
every other route is listed in OPEN_PATHS. If no keys are configured, all routes are open.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.errors import problem_of
from services.api.state import State
from shared import api_keys
from shared.api_keys import ApiKey, find_key
from shared.errors import Forbidden, KilnError, Unauthenticated

# Probes have no keys, and the OpenAPI document is public anyway.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="`Authorization: Bearer <key>`, if the API was started with KILN_API_KEYS. Each operation lists the "
    "scope it requires: `read`, `generate` or `train`.",
)


async def authorize(
    needed: SecurityScopes, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)], state: State
) -> None:
    """Raises Unauthenticated or Forbidden. Reads the key from the header only, never from the URL."""
    check_key(state.settings.keys, credentials, needed.scopes)


def check_key(keys: Sequence[ApiKey], credentials: HTTPAuthorizationCredentials | None, scopes: Iterable[str]) -> None:
    """Raises Unauthenticated or Forbidden; allows everything if no keys are configured."""
    if not keys:
        return
    if credentials is None:
        raise Unauthenticated("missing API key; send it as `Authorization: Bearer <key>`")
    key = find_key(keys, credentials.credentials)
    if key is None:
        raise Unauthenticated("unknown API key")
    for scope in scopes:
        if scope not in key.scopes:
            raise Forbidden(key.name, scope)


class AuthorizeBody:
    """ASGI middleware: checks the key of a request with a body before the body is read.

    FastAPI reads the body before it solves the dependency `authorize`. Without this middleware, clients without a key
    could make the API buffer large bodies. Every body requires a valid key; the route's scopes apply as well.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey], routes: Sequence[APIRoute]) -> None:
        self._app, self._keys, self._routes = app, keys, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._keys and _has_body(scope):
            try:
                check_key(self._keys, await bearer(Request(scope)), self._scopes_at(scope))
            except KilnError as error:
                response = problem_of(error)
                response.headers["Connection"] = "close"  # the unread body makes the connection useless
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _scopes_at(self, scope: Scope) -> list[str]:
        """The scopes that the decorator of the requested route declares; none for an unknown route."""
        route = next((route for route in self._routes if route.matches(scope)[0] is Match.FULL), None)
        return [name for each in (route.dependencies if route else ()) for name in getattr(each, "scopes", None) or ()]


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


READ = Security(authorize, scopes=[api_keys.Scope.READ])
GENERATE = Security(authorize, scopes=[api_keys.Scope.GENERATE])
TRAIN = Security(authorize, scopes=[api_keys.Scope.TRAIN])
