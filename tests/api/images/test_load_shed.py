"""Load shedding, disconnects and failing batches: over HTTP, on a real socket, with a model that the test controls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from services.api.app import create_app
from services.api.inference.loaded_model import LoadedModel
from services.dev import free_port
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.processes import wait_for


class Gate:
    """Holds every batch of the engine until it is open, and records how many images were run."""

    def __init__(self, model: LoadedModel) -> None:
        self.open = threading.Event()
        self.started = threading.Event()
        self.ran: list[int] = []
        self._run = model._engine.run
        model._engine.run = self.run  # type: ignore[method-assign]

    def run(self, z: NDArray[np.float32], classes: NDArray[Any]) -> NDArray[np.uint8]:
        self.ran.append(len(classes))
        self.started.set()
        assert self.open.wait(60)
        return self._run(z, classes)


@pytest.fixture
def served(settings: Settings, registry: ModelRegistry) -> Iterator[tuple[str, Any]]:
    """URL of the API under uvicorn in a thread of this process, and its state."""
    publish(registry, "first")
    app = create_app(settings.model_copy(update={"max_waiting_images": 1024}))
    with uvicorn_in_a_thread(app) as url:
        wait_for(lambda: httpx2.get(f"{url}/readyz").status_code, lambda status: status == 200)
        yield url, app.state.kiln


@contextmanager
def uvicorn_in_a_thread(app: Any) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started, bool)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_the_images_of_a_disconnected_client_are_never_generated(served: tuple[str, Any]) -> None:
    url, state = served
    model = state.models.default()
    gate = Gate(model)

    async def scenario() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:

            def request(n: int) -> asyncio.Task[httpx2.Response]:
                return asyncio.create_task(client.get("/generate", params={"class": "cat", "n": n}))

            async def waiting(count: int) -> None:
                await asyncio.to_thread(wait_for, lambda: model._batcher.waiting, lambda waiting: waiting == count)

            # Given a running batch, a client whose 500 images wait behind it, and one with 3
            first = request(1)
            await asyncio.to_thread(gate.started.wait, 60)
            leaver = request(500)
            await waiting(500)
            stayer = request(3)
            await waiting(503)
            # When the client with 500 disconnects
            leaver.cancel()
            await asyncio.gather(leaver, return_exceptions=True)
            # Then its images leave the queue at once, and only the others are generated
            await waiting(3)
            gate.open.set()
            assert [(await first).status_code, (await stayer).status_code] == [200, 200]

    asyncio.run(scenario())
    assert gate.ran == [1, 3]


def test_a_full_queue_refuses_requests_with_retry_after(served: tuple[str, Any]) -> None:
    url, state = served
    gate = Gate(state.models.default())

    async def scenario() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            # Given a running batch and 1024 images behind it, which fill the queue
            first = asyncio.create_task(client.get("/generate?class=cat&n=1"))
            await asyncio.to_thread(gate.started.wait, 60)
            waiting = asyncio.create_task(client.get("/generate?class=cat&n=1024"))
            batcher = state.models.default()._batcher
            await asyncio.to_thread(wait_for, lambda: batcher.waiting, lambda count: count == 1024)
            # When a client requests one more
            refused = await client.get("/generate?class=cat&n=1")
            # Then the error says when to retry, and all accepted requests are completed
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "1024 of 1024 images waiting" in refused.json()["detail"]
            gate.open.set()
            assert [(await first).status_code, (await waiting).status_code] == [200, 200]
            assert (await client.get("/generate?class=cat&n=1")).status_code == 200

    asyncio.run(scenario())


def test_a_failing_batch_is_a_500_at_once_and_in_the_log(
    served: tuple[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    url, state = served

    def fail(z: NDArray[np.float32], classes: NDArray[Any]) -> NDArray[np.uint8]:
        raise MemoryError("the device has no memory left")

    state.models.default()._engine.run = fail

    paths = ("/generate?class=cat&n=1", "/generate?class=cat&n=100", "/interpolate?from=cat&to=cat")
    for path in paths:
        caplog.clear()
        response = httpx2.get(f"{url}{path}", timeout=20)  # the body timeout, which made this a 408, is 30 s

        assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
        assert "the device has no memory left" not in response.text
        wait_for(lambda: caplog.text, lambda log: "the device has no memory left" in log)  # logged after it is sent
