"""Closed-loop HTTP clients that use little processor time, because the server runs on the same machine.

`python -m benchmarks.serving.load` reads JSON from standard input, `{"port": ..., "request": <base64>, "clients": ...,
"seconds": ...}`, and prints JSON. Each client has one connection, sends the same bytes again as soon as the response is
complete, and decodes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
from typing import Any, cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """One connection: sends the request, counts the bytes of the response, and starts again."""

    def __init__(self, request: bytes, seconds: list[float], errors: list[str]) -> None:
        self._request, self.seconds, self.errors = request, seconds, errors
        self._head = b""
        self._missing = -1  # bytes of the body still to come; -1 while the head is incomplete
        self.is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._head, 0, end)
            if length is None or b" 200 " not in self._head[:20]:
                self.errors.append(self._head[:200].decode("latin-1"))
                self._transport.close()
                return
            self._missing = int(length[1]) - (len(self._head) - end - 4)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self.seconds.append(time.perf_counter() - self._sent_s)
            if not self.is_over:
                self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_over:
            self.errors.append(f"connection lost: {error}")

    def close(self) -> None:
        self.is_over = True
        self._transport.close()

    def _send(self) -> None:
        self._head, self._missing = b"", -1
        self._sent_s = time.perf_counter()
        self._transport.write(self._request)


async def load(port: int, request: bytes, clients: int, seconds: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    errors: list[str] = []
    began_s = time.perf_counter()
    protocols = []
    for _ in range(clients):
        _, protocol = await loop.create_connection(lambda: Client(request, latencies, errors), "127.0.0.1", port)
        protocols.append(protocol)
    await asyncio.sleep(seconds)
    responses, passed_s = len(latencies), time.perf_counter() - began_s
    for protocol in protocols:
        protocol.close()
    return {"seconds": passed_s, "latencies": latencies[:responses], "errors": errors}


if __name__ == "__main__":
    options = json.load(sys.stdin)
    options["request"] = base64.b64decode(options["request"])
    print(json.dumps(asyncio.run(load(**options))))
