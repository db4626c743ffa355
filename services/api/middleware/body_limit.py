"""Request bodies that are too large are refused before anybody holds them in memory; those that never end, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import problem


class BodyLimit:
    """ASGI middleware: 413 when a body is, or grows, larger than `max_bytes`, 408 when it takes over `timeout_s`.

    `larger` are paths that may get more.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, larger: Mapping[str, int]) -> None:
        self._app, self._max_bytes, self._timeout_s, self._larger = app, max_bytes, timeout_s, dict(larger)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._larger.get(scope["path"], self._max_bytes)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > max_bytes:
            await _too_large(int(declared[:20]), max_bytes)(scope, receive, send)
            return
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                size = await _read(receive, messages, max_bytes)
        except TimeoutError:
            detail = f"the body has not come within {self._timeout_s:g} s"
            # What is still under way is not read, so this connection is of no further use; nor is it after a 413.
            await problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"})(scope, receive, send)
            return
        if size > max_bytes:
            await _too_large(size, max_bytes)(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


async def _read(receive: Receive, messages: list[Message], max_bytes: int) -> int:
    """Bytes of the body, read as far as allowed: a route that parses JSON would hold all of it anyway."""
    size = 0
    while size <= max_bytes:
        messages.append(message := await receive())
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    return size


def _too_large(size: int, max_bytes: int) -> ASGIApp:
    detail = f"body: {size:,} bytes, and {max_bytes:,} are allowed"
    return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"})
