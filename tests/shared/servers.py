"""Starts a redis-server that a test may kill, and a relay to it whose connections may break."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.dev import find_redis_server, redis_command, wait_for_redis


@contextmanager
def redis_on(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a redis-server on the port, and kills it at the end of the block."""
    command = redis_command(find_redis_server(), port, folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for_redis(port, process)
            yield process
        finally:
            process.kill()


class BreakableConnection(socketserver.ThreadingTCPServer):
    """Relays everything to a Redis. Once armed, it forwards one EXEC and drops the reply."""

    daemon_threads = True

    def __init__(self, redis_port: int) -> None:
        self.redis_port = redis_port
        self.is_armed = False
        super().__init__(("127.0.0.1", 0), _Relay)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, BreakableConnection)
        with socket.create_connection(("127.0.0.1", self.server.redis_port)) as redis:
            while request := self.request.recv(1 << 20):
                redis.sendall(request)
                reply = redis.recv(1 << 20)  # a client sends the next request after the reply
                if self.server.is_armed and b"EXEC" in request:
                    self.server.is_armed = False
                    return
                self.request.sendall(reply)


@contextmanager
def breakable(redis_port: int) -> Iterator[BreakableConnection]:
    with BreakableConnection(redis_port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
