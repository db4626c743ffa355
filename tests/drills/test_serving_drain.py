"""Drill: an API that is stopped under load resets no connection."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.api.conftest import publish
from tests.drills.clients import Crowd, connect, read_all
from tests.drills.report import Drill
from tests.drills.servers import running
from tests.processes import wait_for

CLIENTS = 16


def send(client: httpx2.Client, number: int) -> httpx2.Response:
    path = ("/healthz", "/jobs", "/generate?class=cat&n=4", "/models")[number % 4]
    return client.get(path)


def test_drain_under_load(tmp_path: Path, drill: Drill) -> None:
    """Invariant: after SIGTERM the API first fails its readiness check and still responds, then refuses connections,
    then exits with status 0. Every request on an established connection gets a 200, and no connection is reset. The
    event stream of a job ends properly.

    Faults injected: 1 (SIGTERM, under 16 clients that ignore /readyz, a large request and an event stream).
    Broken by hand: `services/api/server.py`: `handle_exit` calls `super().handle_exit(sig, frame)` on the first signal
    -> /readyz refused the connection and never returned 503. `shutdown` without `_accept_pending` and without waiting
    for silent clients -> two clients saw a reset.
    """
    with running(tmp_path, KILN_DRAIN_S="1.5") as server, ExitStack() as connections:
        publish(server.registry, "first")
        server.wait_until_ready()
        job_id = server.http.post("/jobs", json={"preset": "tiny"}).json()["id"]
        idle = httpx2.Client(base_url=server.url)
        idle.get("/healthz")  # an idle keep-alive connection
        stream, large = (connections.enter_context(connect(server.port)) for _ in range(2))
        stream.sendall(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())

        # Given clients that send requests as fast as they can
        with Crowd(server.url, send, CLIENTS) as crowd:
            wait_for(lambda: len(crowd.answers), lambda count: count > 10 * CLIENTS)
            large.sendall(b"GET /generate?class=cat&n=1024 HTTP/1.1\r\nHost: x\r\n\r\n")
            # When the API gets SIGTERM
            server.api.send_signal(signal.SIGTERM)
            not_ready = wait_for(lambda: server.http.get("/readyz"), lambda answer: answer.status_code == 503)
            assert "draining" in not_ready.json()["detail"]
            assert not_ready.headers["connection"] == "close"
            still = len(crowd.answers)
            # Then it responds for a while, then refuses connections, then exits
            wait_for(lambda: crowd.refused, lambda refused: refused == CLIENTS)
            assert len(crowd.answers) > still
        assert server.api.wait() == 0
        idle.close()
        image, events = read_all(large), read_all(stream)

    lost = [*crowd.errors, *(status for status, _ in crowd.answers if status != 200)]
    closing = [closed for _, closed in crowd.answers]
    assert closing[-CLIENTS:] == [True] * CLIENTS  # the last response to each client closes its connection
    assert b"\r\n\r\n\x89PNG" in image
    assert events.endswith(b"0\r\n\r\n")  # the end of a chunked response
    drill.record("drain under load", 1, ", ".join(map(str, lost[:3])) or "nothing", f"{len(crowd.answers)} answers")
