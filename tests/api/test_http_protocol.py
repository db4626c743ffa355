"""Requests that uvicorn cannot parse get a problem document too."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import uvicorn

from services.api.app import create_app
from services.api.http_protocol import MAX_HEAD_BYTES
from services.api.server import make_config
from services.dev import free_port
from shared.settings import Settings
from tests.drills.clients import connect, read_all
from tests.processes import wait_for

REST = b"Host: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An API under uvicorn, in a thread of this process."""
    settings = Settings(data=tmp_path_factory.mktemp("raw"), redis_url=redis_server, port=free_port())
    app = create_app(settings)
    server = uvicorn.Server(make_config(app, settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started, bool)
    yield settings.port
    server.should_exit = True
    thread.join()


def send(port: int, request: bytes) -> tuple[int, dict[str, str], Any]:
    """-> status, headers and JSON body of the response to these bytes"""
    with closing(connect(port)) as connection:
        connection.sendall(request)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /generate?class=" + b"a" * 70_000 + b" HTTP/1.1\r\n", 414),
        (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n", 414),
        (b"GET /jobs HTTP/1.1\r\nX-Long: " + b"a" * 70_000 + b"\r\n", 431),
        (b"GET /models/\xff\xfe HTTP/1.1\r\n", 400),
        (b"GET /models/caf\xc3\xa9 HTTP/1.1\r\n", 400),
        (b"GET /models/a b HTTP/1.1\r\n", 400),
        (b"GET /jobs HTTP/1.1\r\nContent-Length: many\r\n", 400),
        (b"NONSENSE\r\n", 400),
    ],
)
def test_a_request_that_cannot_be_parsed_gets_a_problem_document(port: int, request_line: bytes, status: int) -> None:
    answered, headers, body = send(port, request_line + REST)

    assert (answered, body["status"]) == (status, status)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"
    assert body["title"]
    assert {400: "percent-encode", 414: "POST /generate", 431: "65,535 bytes"}[status] in body["detail"]


def test_the_largest_head_that_is_allowed_is_parsed(port: int) -> None:
    head = b"Host" + b"x" + b"Connection" + b"close"
    url = b"/" + b"a" * (MAX_HEAD_BYTES - len(head) - 1)

    assert send(port, b"GET " + url + b" HTTP/1.1\r\n" + REST)[0] == 404
    assert send(port, b"GET " + url + b"a HTTP/1.1\r\n" + REST)[0] == 431


def test_a_websocket_upgrade_is_ignored(port: int) -> None:
    upgrade = b"Host: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"

    status, headers, body = send(port, b"GET /no/such/path HTTP/1.1\r\n" + upgrade + b"\r\n")

    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert "/no/such/path" in body["detail"]
