"""Slow, silent and disconnecting clients do not hold up other clients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator
from tests.drills.clients import connect
from tests.drills.report import Drill
from tests.drills.servers import Server, allow_many_files, running
from tests.processes import wait_for

REQUEST = b"GET /generate?class=cat&model=%s&n=%d&scale=%d HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    allow_many_files()
    with running(tmp_path_factory.mktemp("clients"), KILN_MAX_WAITING_IMAGES="8192", KILN_BODY_TIMEOUT_S="2") as server:
        publish(server.registry, "first")
        server.wait_until_ready()
        yield server


def is_well(server: Server) -> bool:
    """Whether an ordinary client gets its images."""
    answer = server.http.get("/generate", params={"class": "cat", "n": 16})
    return answer.status_code == 200 and server.http.get("/healthz").status_code == 200


def test_slow_readers(server: Server, drill: Drill) -> None:
    """Invariant: clients that request large images and do not read them do not hold up other clients. When they
    disconnect, the API frees what they held.

    Faults injected: 16 (clients that request 2048 x 2048 pixels and never read).
    Broken by hand: `services/api/routes/generate.py`: the PNG sent as a stream under one lock -> the ordinary client
    waited behind the slow ones until the test was ended.
    """
    before = server.size()
    with ExitStack() as slow:
        for _ in range(16):
            slow.enter_context(connect(server.port, receive_buffer=4096)).sendall(REQUEST % (b"first", 256, 4))
        wait_for(lambda: server.log().count('/generate HTTP/1.1" 200'), lambda count: count >= 16)
        assert is_well(server)
    after = wait_for(server.size, lambda size: size["api_fds"] <= before["api_fds"] + 2)
    drill.record("slow reader", 16, detail=f"{after['api_mb'] - before['api_mb']:+.0f} MB")


def test_half_open_clients(server: Server, drill: Drill) -> None:
    """Invariant: clients that connect and send nothing, or stop in the middle of a request, do not hold up other
    clients. A client that stops within a body gets a 408, and its connection is closed.

    Faults injected: 300 (100 silent, 100 within the headers, 100 within the body).
    Broken by hand: `services/api/middleware/body_limit.py`: no `asyncio.timeout` -> the clients that stopped within
    the body never got a response.
    """
    before = server.size()
    beginnings = {
        "silent": b"",
        "headers": b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-",
        "body": b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
    }
    with ExitStack() as clients:
        half_open = {name: [clients.enter_context(connect(server.port)) for _ in range(100)] for name in beginnings}
        for name, connections in half_open.items():
            for connection in connections:
                connection.sendall(beginnings[name])
        assert is_well(server)
        for connection in half_open["body"]:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        assert is_well(server)
    wait_for(server.size, lambda size: size["api_fds"] <= before["api_fds"] + 2)
    drill.record("half-open client", 300)


def test_disconnect_in_the_queue(server: Server, drill: Drill) -> None:
    """Invariant: the images of disconnected clients are not generated. Clients fill the queue of a slow model and
    disconnect; the next client is served after the running batch, not after the queue.

    Faults injected: 30 (clients that request 1024 images each, more than fit into the queue, and disconnect).
    Broken by hand: `services/api/routes/generate.py`: `render(...)` without `cancel_on_disconnect` -> all images
    that fitted into the queue were generated.
    """
    publish(server.registry, "slow", graph=make_generator(LATENT, len(CLASSES), work=10))
    one = "/generate?class=cat&n=1&model=slow"
    assert server.http.get(one).status_code == 200

    def refusals() -> int:
        return server.log().count('/generate HTTP/1.1" 503')

    for _ in range(3):
        before = refusals()
        with ExitStack() as leaving:
            for _ in range(10):
                leaving.enter_context(connect(server.port)).sendall(REQUEST % (b"slow", 1024, 1))
            # Eight of them fill the queue and two are refused, so the API has read all requests.
            wait_for(refusals, lambda count: count >= before + 2)  # noqa: B023 - it is called at once
        wait_for(lambda: server.http.get(one).status_code, lambda status: status == 200)
    (images,) = re.findall(
        r'^kiln_images_total\{model="slow".*\} (\S+)$', server.http.get("/metrics").text, re.MULTILINE
    )
    assert float(images) < 3 * 1024  # of 30 * 1024: the batches that were running, and those of `one`
    drill.record("disconnect in the queue", 30)
