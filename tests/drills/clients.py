"""Clients for the drills: many threads that send requests, and plain TCP connections for misbehaving clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2


@dataclass
class Crowd:
    """Threads that send requests in a loop, each over its own connection, until the block ends."""

    url: str
    send: Callable[[httpx2.Client, int], httpx2.Response]  # (client, number of the request) -> response
    size: int
    check: Callable[[httpx2.Response], None] = lambda _: None
    answers: list[tuple[int, bool]] = field(
        default_factory=list
    )  # (status, whether the response closes the connection)
    refused: int = 0  # refused connections, which are no errors
    errors: list[str] = field(default_factory=list)  # broken connections, and responses that failed `check`
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Crowd:
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.size)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx2.Client(base_url=self.url, timeout=120) as client:
            while not self._stop.is_set():
                try:
                    answer = self.send(client, number)
                    self.answers.append((answer.status_code, answer.headers.get("connection") == "close"))
                    self.check(answer)
                except httpx2.ConnectError as error:
                    if "refused" not in str(error):
                        self.errors.append(repr(error))
                    self.refused += 1
                    return
                except Exception as error:
                    self.errors.append(repr(error))
                number += self.size


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A plain TCP connection. With a small `receive_buffer`, the server's writes soon block."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", port))
    return connection


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the other side closes."""
    data = b""
    while part := connection.recv(1 << 16):
        data += part
    return data
