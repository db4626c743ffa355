"""uvicorn with a graceful shutdown: it fails its readiness check, then refuses new connections, then exits.

After SIGTERM `/readyz` returns 503 for KILN_DRAIN_S seconds, so that load balancers route new clients elsewhere. The
listener stays open meanwhile, and every response carries `Connection: close`, so that keep-alive clients leave too.
docs/explanation/decisions/0024-shutdown.md gives the reason for the socket filter.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from services.api.http_protocol import ProblemProtocol
from services.api.middleware.draining import Drain
from shared.settings import Settings

GRACE_S = 20  # for requests in flight once the listener is closed
SETTLE_S = 0.02  # for TCP handshakes in flight
FIRST_REQUEST_S = 1.0  # for clients that connected just before the listener closed to send their request
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h


def make_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # uvicorn logs through the handlers of the process
        timeout_graceful_shutdown=GRACE_S,
        access_log=settings.access_log,
        http=ProblemProtocol,
        ws="none",  # there are no WebSockets; an upgrade would bypass the middleware
    )


class DrainingServer(uvicorn.Server):
    """Drains on the first signal; on the second one it exits as uvicorn does."""

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
            self._drain.wake_waiting()
        return await super().on_tick(counter) or self._drain.is_over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            for socket_ in server.sockets:
                drop_new_connections(socket_)
        await asyncio.sleep(SETTLE_S)
        for server in self.servers:
            await self._accept_pending(server)
            server.close()
        # uvicorn closes connections without a request. These clients have just connected: their request is in flight.
        deadline_s = time.monotonic() + FIRST_REQUEST_S
        while time.monotonic() < deadline_s and self._has_silent_clients():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _has_silent_clients(self) -> bool:
        return any(getattr(connection, "cycle", True) is None for connection in self.server_state.connections)

    async def _accept_pending(self, server: asyncio.Server) -> None:
        """Accepts the connections that wait in the kernel's queue; closing the listener would reset them."""
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
    """Makes the kernel drop new connection attempts, and keeps the connections that are already established.

    Closing the listener resets clients that connected a moment before. A socket filter of one instruction, "return 0"
    (socket(7), SO_ATTACH_FILTER), drops their packets first: the client's kernel tries again after a second and is
    refused properly. Only Linux has this filter; elsewhere a few clients may see a reset.
    """
    if sys.platform != "linux":
        return
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    with contextlib.suppress(OSError):  # a sandbox that forbids it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(instruction)))
