"""Who may call what.

Each route names its scope in its decorator: `dependencies=[READ]`, `[GENERATE]` or `[TRAIN]`. What is open to everybody
is listed in OPEN_PATHS; a test holds that there is no third kind. With no keys set, nobody is asked for one.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from services.api.state import State
from shared import api_keys
from shared.api_keys import find_key
from shared.errors import Forbidden, Unauthenticated

# Probes have no keys; the description of the API is in the repository for everybody to read.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="`Authorization: Bearer <key>`, for an API that was started with KILN_API_KEYS. Needed are the scopes "
    "`read`, `generate` or `train`, as listed at each operation.",
)


async def authorize(
    needed: SecurityScopes, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)], state: State
) -> None:
    """Lets the request pass or raises Unauthenticated or Forbidden. A key counts in its header only, never in a URL."""
    keys = state.settings.keys
    if not keys:
        return
    if credentials is None:
        raise Unauthenticated("this takes a key: `Authorization: Bearer <key>`")
    key = find_key(keys, credentials.credentials)
    if key is None:
        raise Unauthenticated("the key is not one of this server's")
    for scope in needed.scopes:
        if scope not in key.scopes:
            raise Forbidden(key.name, scope)


READ = Security(authorize, scopes=[api_keys.Scope.READ])
GENERATE = Security(authorize, scopes=[api_keys.Scope.GENERATE])
TRAIN = Security(authorize, scopes=[api_keys.Scope.TRAIN])
