"""Leaving without hanging up on anybody: not ready first, then no new connections, then the end.

After SIGTERM `/readyz` says 503 for KILN_DRAIN_S seconds, in which whoever spreads the load takes its clients
elsewhere. The listener stays open and all is answered, with `Connection: close`, so that keep-alive clients go, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

GRACE_S = 20  # how long answers under way may take once the listener is closed
SETTLE_S = 0.02  # in which handshakes under way come to their end
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
FIRST_WORD_S = 1.0  # in which a client that got its connection at the last moment may ask


class Drain:
    """Whether this process is on its way out, and since when."""

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        self._began_s: float | None = None
        self._told = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return self._began_s is not None

    @property
    def is_over(self) -> bool:
        return self._began_s is not None and time.monotonic() >= self._began_s + self.drain_s

    def begin(self) -> None:
        """May be called from a signal handler."""
        self._began_s = time.monotonic()

    def tell(self) -> None:
        """Wakes whoever waits for it; the server calls this from its loop."""
        self._told.set()

    async def wait_until_draining(self, wait: Coroutine[Any, Any, None]) -> None:
        """Awaits `wait`, which may be cancelled at any time, until draining begins."""
        waiting, told = asyncio.ensure_future(wait), asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait({waiting, told}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            for task in (waiting, told):
                task.cancel()
            await asyncio.wait({waiting, told})


class DrainingServer(uvicorn.Server):
    """uvicorn, which on the first signal drains, and on a second one leaves as uvicorn does."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain.is_on:
            super().handle_exit(sig, frame)
        else:
            self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        if self._drain.is_on:
            self._drain.tell()
        return await super().on_tick(counter) or self._drain.is_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            for socket_ in server.sockets:
                drop_new_connections(socket_)
        await asyncio.sleep(SETTLE_S)
        for server in self.servers:
            await self._accept_the_rest(server)
            server.close()
        # uvicorn hangs up on whoever has not asked yet. These connections are new: their question is on the way.
        deadline_s = time.monotonic() + FIRST_WORD_S
        while time.monotonic() < deadline_s and self._has_silent_clients():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _has_silent_clients(self) -> bool:
        return any(getattr(connection, "cycle", True) is None for connection in self.server_state.connections)

    async def _accept_the_rest(self, server: asyncio.Server) -> None:
        """Closing a listener resets the connections that the kernel has made and nobody has accepted."""
        loop = asyncio.get_running_loop()
        for socket_ in server.sockets:
            with socket_.dup() as listener, contextlib.suppress(BlockingIOError):
                while True:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def drop_new_connections(listener: socket.socket) -> None:
    """Lets nobody begin a connection any more, and keeps those that have begun.

    Closing a listener resets whoever came in a moment before. So first the kernel is told to drop what arrives for it,
    by a filter of one instruction, "return 0" (socket(7), SO_ATTACH_FILTER): a newcomer's kernel asks again after a
    second, and is refused properly. Linux only; elsewhere that moment remains.
    """
    if sys.platform != "linux":
        return
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    with contextlib.suppress(OSError):  # a sandbox that forbids it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(instruction)))


class CloseWhenDraining:
    """ASGI middleware: `Connection: close` on every answer from the first signal on."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app, self._drain = app, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.is_on:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_and_close if scope["type"] == "http" else send)
