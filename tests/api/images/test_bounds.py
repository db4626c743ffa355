"""Each kind of work has its own threads and its own bound: none waits for another, and none queues without limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from services.api.app import create_app
from services.api.inference import loaded_model
from services.api.inference.bounded_pool import BoundedPool
from services.generator import png as png_module
from shared.errors import Overloaded
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator, write_color_classifier
from tests.api.images.test_load_shed import Gate, uvicorn_in_a_thread
from tests.processes import wait_for

Scenario = Callable[[httpx2.AsyncClient], Awaitable[None]]


@pytest.fixture
def served(settings: Settings, registry: ModelRegistry) -> Iterator[tuple[str, Any]]:
    """URL and state of an API with one worker, the model `first`, and the unconditional model `plain`."""
    publish(registry, "first")
    publish(registry, "plain", graph=make_generator(LATENT, len(CLASSES), is_tinted=True), conditional=False)
    write_color_classifier(settings.data / "classifier")
    changes = {"max_waiting_images": 1024, "threads": 1, "classifier": settings.data / "classifier"}
    app = create_app(settings.model_copy(update=changes))
    with uvicorn_in_a_thread(app) as url:
        wait_for(lambda: httpx2.get(f"{url}/readyz").status_code, lambda status: status == 200)
        yield url, app.state.kiln


def run(url: str, scenario: Scenario) -> None:
    async def with_client() -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            await scenario(client)

    asyncio.run(with_client())


def start(client: httpx2.AsyncClient, path: str, count: int = 1) -> list[asyncio.Task[httpx2.Response]]:
    return [asyncio.create_task(client.get(path)) for _ in range(count)]


async def until(look: Callable[[], Any], is_so: Callable[[Any], bool]) -> None:
    await asyncio.to_thread(wait_for, look, is_so)


def assert_shed(response: httpx2.Response, text: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert text in response.json()["detail"]


class Blocked:
    """A function that waits for `go`, and counts its callers."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.go, self.callers, self._function = threading.Event(), 0, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.callers += 1
        assert self.go.wait(60)
        return self._function(*args, **kwargs)


def test_many_models_that_load_at_once_keep_neither_readyz_nor_images_waiting(
    served: tuple[str, Any], registry: ModelRegistry
) -> None:
    url, state = served
    models = [f"m{number}" for number in range(12)]
    for model_id in models:
        publish(registry, model_id)
    state.models._open = blocked = Blocked(state.models._open)

    async def scenario(client: httpx2.AsyncClient) -> None:
        loading = [task for name in models for task in start(client, f"/generate?class=cat&n=1&model={name}")]
        await until(lambda: blocked.callers, bool)
        for path in ("/readyz", "/generate?class=cat&n=1", "/models/m3", "/interpolate?from=cat&to=dog&steps=2"):
            response = await client.get(path)
            assert response.status_code == 200, response.text
        blocked.go.set()
        assert {(await task).status_code for task in loading} == {200}

    run(url, scenario)


@pytest.mark.parametrize("path", [
    "/generate?class=cat&n=4&compress=small&scale=16", "/generate?class=cat&n=4&compress=small&format=zip",
    "/interpolate?from=cat&to=dog&steps=4&compress=small",
])  # fmt: skip
def test_a_file_that_takes_long_to_encode_does_not_hold_up_inference(
    path: str, served: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    blocked = Blocked(png_module.COMPRESSIONS["small"])
    monkeypatch.setitem(png_module.COMPRESSIONS, "small", blocked)

    async def scenario(client: httpx2.AsyncClient) -> None:
        slow = start(client, path, 4)
        await until(lambda: blocked.callers, bool)
        for quick in ("/generate?class=dog&n=16", "/interpolate?from=cat&to=dog&steps=3", "/readyz"):
            assert (await client.get(quick)).status_code == 200
        blocked.go.set()
        assert {(await task).status_code for task in slow} == {200}

    run(url, scenario)


def test_more_files_to_encode_than_the_bound_are_refused(
    served: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, state = served
    blocked = Blocked(png_module.COMPRESSIONS["small"])
    monkeypatch.setitem(png_module.COMPRESSIONS, "small", blocked)
    state.encoders._max_pending = 2 * 4 * 512 * 512  # two of these files

    async def scenario(client: httpx2.AsyncClient) -> None:
        path = "/generate?class=cat&n=4&compress=small&scale=16"
        slow = start(client, path, 2)
        await until(lambda: blocked.callers, lambda callers: callers == 2)
        assert_shed(await client.get(path), "2,097,152 of 2,097,152 pixels pending")
        blocked.go.set()
        assert {(await task).status_code for task in slow} == {200}
        assert (await client.get(path)).status_code == 200

    run(url, scenario)


def test_interpolations_wait_in_the_queue_are_refused_when_it_is_full_and_count_as_images(
    served: tuple[str, Any],
) -> None:
    url, state = served
    model = state.models.default()
    path = "/interpolate?from=cat&to=dog&steps=256"
    assert httpx2.get(f"{url}{path}", timeout=60).status_code == 200  # opens the engine for soft labels
    gate = Gate(model)

    async def scenario(client: httpx2.AsyncClient) -> None:
        running = start(client, "/generate?class=cat&n=1")
        await until(gate.started.is_set, bool)
        waiting = start(client, path, 4)
        await until(lambda: model.waiting, lambda count: count == 1024)
        assert_shed(await client.get(path), "1024 of 1024 images waiting")
        assert_shed(await client.get("/generate?class=cat&n=1"), "1024 of 1024 images waiting")
        # A client that disconnects takes its images out of the queue
        waiting[0].cancel()
        await until(lambda: model.waiting, lambda count: count == 768)
        gate.open.set()
        assert {(await task).status_code for task in running + waiting[1:]} == {200}
        metrics = (await client.get("/metrics")).text
        assert f'kiln_images_total{{model="first",provider="{model.provider}"}} {4 * 256 + 1}.0' in metrics
        assert 'kiln_rejected_total{reason="overloaded"} 2.0' in metrics

    run(url, scenario)


def test_a_model_whose_classes_cannot_be_mixed_is_parsed_once(
    served: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    parsed: list[int] = []

    def cannot_be_mixed(graph: bytes) -> None:
        parsed.append(len(graph))

    monkeypatch.setattr(loaded_model, "with_soft_labels", cannot_be_mixed)
    paths = [httpx2.get(f"{url}/interpolate?from=cat&to=dog&steps=3&seed={seed}", timeout=60) for seed in range(3)]

    assert {response.status_code for response in paths} == {200}
    assert len(parsed) == 1


def test_rejection_sampling_beyond_its_bound_is_refused(served: tuple[str, Any]) -> None:
    url, state = served
    path = "/generate?model=plain&class=red&n=16&max_draws=20000"
    assert httpx2.get(f"{url}{path}", timeout=60).status_code == 200
    state.classifier._pool._max_pending = 2 * 16 * 3  # two of these requests: one draw in three is red
    gate = Gate(state.models.find("plain"))

    async def scenario(client: httpx2.AsyncClient) -> None:
        sampling = start(client, path, 2)
        await until(lambda: state.classifier._pool.pending, lambda pending: pending == 96)
        assert_shed(await client.get(path), "rejection sampling queue full: 96 of 96 draws pending")
        # Other models and images without a class are served
        assert (await client.get("/generate?class=cat&n=16")).status_code == 200
        # A client that disconnects makes room for another
        sampling[0].cancel()
        await until(lambda: state.classifier._pool.pending, lambda pending: pending == 48)
        third = start(client, path)
        gate.open.set()
        assert {(await task).status_code for task in (sampling[1], *third)} == {200}

    run(url, scenario)


def test_a_bounded_pool_frees_its_room_also_after_an_error_and_runs_the_largest_work_alone() -> None:
    pool = BoundedPool("encoding", 1, 100, "pixels")

    async def scenario() -> None:
        with pytest.raises(ValueError, match="damaged"), pool.reserve(60):
            await pool.run(int, "damaged")
        assert pool.pending == 0
        with pool.reserve(1000):
            with pytest.raises(Overloaded, match="1,000 of 100 pixels pending; retry in 2 s"), pool.reserve(1):
                pass
            assert await pool.run(np.add, 1, 2) == 3
        with pool.reserve(60), pool.reserve(40):
            assert pool.pending == 100

    asyncio.run(scenario())
