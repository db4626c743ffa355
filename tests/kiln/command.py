"""Runs the command `kiln` as a process, and stands in for an API that is newer than the client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.processes import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment_for(url: str, folder: Path) -> dict[str, str]:
    return os.environ | {
        "KILN_URL": url, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", "KILN_DATA": str(folder),
        "KILN_DATASETS": str(folder), "KILN_REDIS_URL": "redis://127.0.0.1:1",
    }  # fmt: skip


def run(url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kiln.cli.main", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=environment_for(url, folder),
    )  # fmt: skip


def printed_json(done: subprocess.CompletedProcess[str]) -> Any:
    """The output of a command with --json, which must have succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def serving(answers: dict[str, Any]) -> Iterator[str]:
    """A server that answers each path with a JSON document, as a newer API might."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path.partition("?")[0]]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
