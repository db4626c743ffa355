"""Refuses request bodies that are too large (413) or arrive too slowly (408)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import problem


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_bytes`, 408 for one that takes longer than `timeout_s`.

    `larger` maps paths to a higher limit. A PUT below the path `streamed` passes: its route reads the body piece by
    piece, with limits of its own.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, timeout_s: float, larger: Mapping[str, int], streamed: str
    ) -> None:
        self._app, self._max_bytes, self._timeout_s, self._larger = app, max_bytes, timeout_s, dict(larger)
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "PUT" and scope["path"].startswith(self._streamed)):
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
            detail = f"the request body did not arrive within {self._timeout_s:g} s"
            # The rest of the body stays unread, so the connection cannot be used again; the same holds after a 413.
            await problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"})(scope, receive, send)
            return
        if size > max_bytes:
            await _too_large(size, max_bytes)(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)


async def _read(receive: Receive, messages: list[Message], max_bytes: int) -> int:
    """Reads the body into `messages`, up to `max_bytes` or one chunk more. -> its size so far, in bytes"""
    size = 0
    while size <= max_bytes:
        messages.append(message := await receive())
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    return size


def _too_large(size: int, max_bytes: int) -> ASGIApp:
    detail = f"request body too large: {size:,} bytes; the limit is {max_bytes:,} bytes"
    return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"})
