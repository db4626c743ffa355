"""Request bodies that are too large are refused before anybody holds them in memory; those that never end, in time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import problem


class BodyLimit:
    """ASGI middleware: 413 when a body is, or grows, larger than `max_bytes`, 408 when it takes over `timeout_s`."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._max_bytes:
            await self._too_large(int(declared[:20]))(scope, receive, send)
            return
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                size = await self._read(receive, messages)
        except TimeoutError:
            detail = f"the body has not come within {self._timeout_s:g} s"
            # What is still under way is not read, so this connection is of no further use; nor is it after a 413.
            await problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"})(scope, receive, send)
            return
        if size > self._max_bytes:
            await self._too_large(size)(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive, messages: list[Message]) -> int:
        """Bytes of the body, read as far as allowed: a route that parses JSON would hold all of it anyway."""
        size = 0
        while size <= self._max_bytes:
            messages.append(message := await receive())
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                break
        return size

    def _too_large(self, size: int) -> ASGIApp:
        detail = f"body: {size:,} bytes, and {self._max_bytes:,} are allowed"
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"})
