"""The shutdown phase of the API: records its start, and closes open connections after their responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Drain:
    """The state of the shutdown. While it drains, for `drain_s` seconds, the API is not ready but still responds."""

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        self._began_s: float | None = None
        self._begun = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return self._began_s is not None

    @property
    def is_over(self) -> bool:
        return self._began_s is not None and time.monotonic() >= self._began_s + self.drain_s

    def begin(self) -> None:
        """Starts draining. Signal handlers may call it, so it wakes no task."""
        self._began_s = time.monotonic()

    def wake_waiting(self) -> None:
        """Ends every `wait_until_draining`. Call it from the event loop, once draining has begun."""
        self._begun.set()

    async def wait_until_draining(self, wait: Coroutine[Any, Any, None]) -> None:
        """Awaits `wait`, and cancels it when draining begins."""
        waiting, draining = asyncio.ensure_future(wait), asyncio.ensure_future(self._begun.wait())
        try:
            await asyncio.wait({waiting, draining}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            for task in (waiting, draining):
                task.cancel()
            await asyncio.wait({waiting, draining})


class CloseWhenDraining:
    """ASGI middleware: adds `Connection: close` to every response once draining has begun."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app, self._drain = app, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.is_on:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_and_close if scope["type"] == "http" else send)
