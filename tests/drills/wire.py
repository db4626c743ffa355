"""A relay in front of Redis that waits for one request, then kills a process, drops it, or cuts the connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any


class Fate(Enum):
    """What the relay does with the request that matches."""

    PASSED = "passed on"
    DROPPED = "never reaches Redis, and its connection ends"
    UNANSWERED = "reaches Redis, but the connection ends before the reply"


class Wire:
    """Relays connections to a redis-server until the block of `wire_to` ends."""

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._needles: tuple[bytes, ...] = ()
        self._act: Callable[[], Any] = lambda: None
        self._fate = Fate.PASSED
        self.sprung = threading.Event()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def trap(self, *needles: str, act: Callable[[], Any] = lambda: None, fate: Fate = Fate.DROPPED) -> None:
        """Calls `act` once, at the first request that contains all needles, before any of it reaches Redis.

        With UNANSWERED it calls `act` after Redis has replied, and drops the reply.
        """

        with self._lock:
            self.sprung.clear()
            self._needles, self._act, self._fate = tuple(needle.encode() for needle in needles), act, fate

    def _fate_of(self, request: bytes) -> Fate:
        with self._lock:
            if not self._needles or not all(needle in request for needle in self._needles):
                return Fate.PASSED
            self._needles = ()
        if self._fate is not Fate.UNANSWERED:
            self._spring()
        return self._fate

    def _spring(self) -> None:
        self._act()
        self.sprung.set()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._redis_port))
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        is_cut = threading.Event()
        back = threading.Thread(target=self._answers, args=(server, client, is_cut), daemon=True)
        back.start()
        with suppress(OSError):
            self._requests(client, server, is_cut)
        _shut(server, client)
        back.join()
        with self._lock:
            self._open -= {client, server}
        server.close()
        client.close()

    def _requests(self, client: socket.socket, server: socket.socket, is_cut: threading.Event) -> None:
        held = b""  # a transaction is matched as one request: it is held back from MULTI to EXEC
        while data := client.recv(1 << 16):
            held += data
            if b"MULTI\r\n" in held and not held.endswith(b"EXEC\r\n"):
                continue
            fate = self._fate_of(held)
            if fate is Fate.DROPPED:
                return
            if fate is Fate.UNANSWERED:
                is_cut.set()
            server.sendall(held)
            held = b""

    def _answers(self, server: socket.socket, client: socket.socket, is_cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if is_cut.is_set():
                    self._spring()
                    break
                client.sendall(data)
        _shut(server, client)

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        with self._lock:
            _shut(*self._open)


@contextmanager
def wire_to(redis_port: int) -> Iterator[Wire]:
    wire = Wire(redis_port)
    thread = threading.Thread(target=wire.accept, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        thread.join()


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
