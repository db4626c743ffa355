"""Checks API keys and their scopes.

Each route declares its scope in its decorator: `dependencies=[READ]`, `[GENERATE]` or `[TRAIN]`. A test ensures that
every other route is listed in OPEN_PATHS. If no keys are configured, all routes are open.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from services.api.state import State
from shared import api_keys
from shared.api_keys import find_key
from shared.errors import Forbidden, Unauthenticated

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
    keys = state.settings.keys
    if not keys:
        return
    if credentials is None:
        raise Unauthenticated("missing API key; send it as `Authorization: Bearer <key>`")
    key = find_key(keys, credentials.credentials)
    if key is None:
        raise Unauthenticated("unknown API key")
    for scope in needed.scopes:
        if scope not in key.scopes:
            raise Forbidden(key.name, scope)


READ = Security(authorize, scopes=[api_keys.Scope.READ])
GENERATE = Security(authorize, scopes=[api_keys.Scope.GENERATE])
TRAIN = Security(authorize, scopes=[api_keys.Scope.TRAIN])
