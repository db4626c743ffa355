"""The one request that has to be fast, `GET /generate` of a model in memory, without what it does not need.

Whatever is not plain about a request, or goes wrong, is left to the route in `routes.generate`, which answers the same
and says what is wrong; a test holds the two together. What is saved are routing, dependency injection and layers of
middleware: about as much time as a small network takes for its image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.errors import SECURITY_HEADERS
from services.api.images.generate import GenerationRequest, resolve_generation
from services.api.images.response_cache import ImageResponse
from services.api.schemas.images import GenerateQuery
from services.api.state import AppState
from shared.api_keys import Scope as KeyScope
from shared.api_keys import find_key
from shared.errors import KilnError

# A body, a page of another origin: the layers that are left out here would have something to do.
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"origin"})
_FIXED = {name.lower().encode(): value.encode() for name, value in SECURITY_HEADERS.items()}


class HotPath:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/generate" and scope["method"] == "GET":
            headers = dict(scope["headers"])
            state: AppState = scope["app"].state.kiln
            order = None if _NOT_PLAIN & headers.keys() else await _order(scope, headers, state)
            if order is not None:
                answer = await _answer(order, headers, state, receive)
                if isinstance(answer, ImageResponse):
                    await _send(answer, send)
                if answer is not None:
                    return
        await self._app(scope, receive, send)


async def _order(scope: Scope, headers: Mapping[bytes, bytes], state: AppState) -> GenerationRequest | None:
    """None for whatever has to go the long way."""
    if state.drain.is_on or not _may_generate(headers, state):
        return None
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    values: dict[str, Any] = dict(pairs)
    if len(values) != len(pairs):
        return None
    try:
        query = GenerateQuery.model_validate(values)
        model = state.models.get_if_loaded(query.model)
        if model is None or not (model.manifest.conditional or query.class_ is None):
            return None
        return await resolve_generation(query, model, state.classifier)
    except (ValidationError, KilnError):
        return None


def _may_generate(headers: Mapping[bytes, bytes], state: AppState) -> bool:
    keys = state.settings.keys
    if not keys:
        return True
    scheme, _, shown = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    key = find_key(keys, shown) if scheme.lower() == "bearer" else None
    return key is not None and KeyScope.GENERATE in key.scopes


async def _answer(
    order: GenerationRequest, headers: Mapping[bytes, bytes], state: AppState, receive: Receive
) -> ImageResponse | bool | None:
    """True when the client has gone; None when it went wrong, before anything was sent."""
    working = asyncio.current_task()
    assert working is not None
    leaving = asyncio.ensure_future(_disconnected(receive))
    is_over = False

    def hang_up(left: asyncio.Future[None]) -> None:
        if not is_over and not left.cancelled():
            working.cancel()

    leaving.add_done_callback(hang_up)
    known = headers.get(b"if-none-match")
    try:
        return await state.answers.answer(order, None if known is None else known.decode("latin-1"))
    except asyncio.CancelledError:
        if not leaving.done() or leaving.cancelled():
            raise
        working.uncancel()
        return True
    except Exception:
        return None  # the route meets it again, and tells the client or the log
    finally:
        is_over = True
        leaving.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(answer: ImageResponse, send: Send) -> None:
    headers = _FIXED | {name.lower().encode(): value.encode() for name, value in answer.all_headers.items()}
    if answer.media_type:
        headers[b"content-type"] = answer.media_type.encode()
        headers[b"content-length"] = str(len(answer.body)).encode()
    await send({"type": "http.response.start", "status": answer.status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": answer.body})
