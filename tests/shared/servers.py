"""A redis-server of a test's own, which may be killed."""

from __future__ import annotations

import subprocess
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
