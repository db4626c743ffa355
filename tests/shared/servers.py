"""A redis-server of a test's own, which may be killed, and a connection to it that may break."""

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
    """Answers when the block begins, and is killed at its end unless it has ended before."""
    command = redis_command(find_redis_server(), port, folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for_redis(port, process)
            yield process
        finally:
            process.kill()


class BreakableConnection(socketserver.ThreadingTCPServer):
    """Passes everything on to a Redis; once armed, it lets one EXEC through and keeps its answer to itself."""

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
            while asked := self.request.recv(1 << 20):
                redis.sendall(asked)
                answer = redis.recv(1 << 20)  # each request waits for its answer, so one follows the other
                if self.server.is_armed and b"EXEC" in asked:
                    self.server.is_armed = False
                    return
                self.request.sendall(answer)


@contextmanager
def breakable(redis_port: int) -> Iterator[BreakableConnection]:
    with BreakableConnection(redis_port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
