"""The model pool serves only valid models, and changes models only when they are warm and promoted."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.generator.devices import has_cuda_device
from services.generator.engine import OnnxEngine
from shared.errors import CorruptArtifact, NoModelReady
from shared.settings import Settings
from shared.storage.model_registry import GENERATOR_FILE, PREVIEW_FILE, ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish, wait_until_ready
from tests.api.graphs import make_generator


def served(client: TestClient) -> str:
    answer = client.get("/generate", params={"class": "cat"})
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-kiln-model"])


def test_a_model_published_while_the_api_runs_is_served_without_a_restart(
    client: TestClient, registry: ModelRegistry
) -> None:
    assert client.get("/readyz").status_code == 503

    publish(registry, "late")
    client.app.state.kiln.store.announce()  # type: ignore[attr-defined]

    wait_until_ready(client)
    assert served(client) == "late"


def test_a_second_model_is_not_the_default_until_it_is_promoted(serving: TestClient, registry: ModelRegistry) -> None:
    publish(registry, "second")
    assert served(serving) == "first"

    assert serving.put("/aliases/default", json={"model_id": "second"}).json() == {
        "alias": "default",
        "model_id": "second",
    }

    assert served(serving) == "second"
    assert registry.resolve("default") == "second"
    listed = {view["manifest"]["id"]: view["aliases"] for view in serving.get("/models").json()["data"]}
    assert listed == {"first": [], "second": ["default"]}


BROKEN = {
    "no ONNX at all": b"not a graph",
    "NaN": make_generator(LATENT, len(CLASSES), gain=float("nan")),
    "out of range": make_generator(LATENT, len(CLASSES), squash="Identity", gain=100),
    "wrong shape": make_generator(LATENT, len(CLASSES), height=16),
    "wrong signature": make_generator(LATENT, len(CLASSES), z_name="noise"),
}


@pytest.mark.parametrize("graph", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_model_is_never_served_and_the_old_model_stays(
    graph: bytes, serving: TestClient, registry: ModelRegistry
) -> None:
    publish(registry, "broken", graph=graph)

    refused = serving.put("/aliases/default", json={"model_id": "broken"})
    asked_for = serving.get("/generate", params={"class": "cat", "model": "broken"})

    assert refused.status_code == asked_for.status_code == 503
    assert registry.resolve("default") == served(serving) == "first"
    assert serving.get("/models/broken").json()["refused"]


@pytest.mark.parametrize(("graph", "why"), [
    (BROKEN["NaN"], "not finite"), (BROKEN["out of range"], "outside [-1, 1]"), (BROKEN["wrong shape"], "the shape"),
    (BROKEN["wrong signature"], "not a generator"), (BROKEN["no ONNX at all"], "cannot open"),
    (make_generator(LATENT, len(CLASSES), spoiled_class=7), "not finite"),
    (make_generator(LATENT, len(CLASSES) - 1), "fails on its first batch"),
    (make_generator(LATENT + 1, len(CLASSES)), "manifest says 8"),
])  # fmt: skip
def test_a_broken_model_shows_why_it_cannot_be_served_after_the_first_request(
    graph: bytes, why: str, serving: TestClient, registry: ModelRegistry
) -> None:
    publish(registry, "broken", graph=graph)
    assert serving.get("/generate", params={"class": "cat", "model": "broken"}).status_code == 503

    assert why in serving.get("/models/broken").json()["refused"]
    assert serving.get("/models/first").json()["refused"] is None


@pytest.mark.parametrize("path", ["/models/second", "/models", "/models/second/preview.png"])
def test_a_key_that_may_only_read_never_makes_the_api_load_a_model(
    path: str, serving: TestClient, registry: ModelRegistry
) -> None:
    publish(registry, "second", more={PREVIEW_FILE: b"a PNG"})
    assert serving.get(path).status_code == 200

    view = serving.get("/models/second").json()
    assert (view["provider"], view["memory_bytes"], view["refused"]) == (None, None, None)


def test_a_damaged_alias_keeps_its_model(serving: TestClient, registry: ModelRegistry, settings: Settings) -> None:
    registry.set_alias("candidate", "first")
    for alias in ("default", "candidate"):
        (settings.data / "artifacts" / "aliases" / alias).write_bytes(b'{"model_')
    publish(registry, "second")  # `default` exists, although damaged, and does not move
    asyncio.run(serving.app.state.kiln.models.refresh())  # type: ignore[attr-defined]

    assert {view["manifest"]["id"] for view in serving.get("/models").json()["data"]} == {"first", "second"}
    assert served(serving) == "first"
    assert serving.put("/aliases/default", json={"model_id": "second"}).status_code == 200
    assert served(serving) == "second"


def test_a_manifest_in_the_folder_of_another_model_is_refused(
    serving: TestClient, registry: ModelRegistry, settings: Settings
) -> None:
    publish(registry, "second")
    folder = settings.data / "artifacts" / "models"
    shutil.copy(folder / "first" / "manifest.json", folder / "second" / "manifest.json")

    answer = serving.get("/generate", params={"class": "cat", "model": "second"})
    assert answer.status_code == 503
    assert "names model 'first'" in answer.json()["detail"]


def test_a_model_whose_file_was_changed_is_never_served(
    serving: TestClient, registry: ModelRegistry, settings: Settings
) -> None:
    publish(registry, "tampered")
    (path,) = (settings.data / "artifacts" / "models" / "tampered").glob(f"*{GENERATOR_FILE}")
    path.write_bytes(make_generator(LATENT, len(CLASSES), seed=666))

    answer = serving.get("/generate", params={"class": "cat", "model": "tampered"})

    assert answer.status_code == 503
    assert "does not match the digest" in answer.json()["detail"]


def test_a_model_in_memory_shows_its_provider_and_its_memory(serving: TestClient) -> None:
    view = serving.get("/models/first").json()

    assert view["provider"] == ("CUDAExecutionProvider" if has_cuda_device() else "CPUExecutionProvider")
    assert view["memory_bytes"] > len(make_generator(LATENT, len(CLASSES)))


def test_a_deleted_model_is_not_served_and_a_model_in_use_is_not_deleted(
    serving: TestClient, registry: ModelRegistry, settings: Settings
) -> None:
    publish(registry, "second")
    assert serving.get("/generate", params={"class": "cat", "model": "second"}).status_code == 200

    refused = serving.delete("/models/first")
    assert refused.status_code == 409
    assert "in use as default" in refused.json()["detail"]
    assert served(serving) == "first"

    assert serving.delete("/models/second").status_code == 204
    assert serving.get("/generate", params={"class": "cat", "model": "second"}).status_code == 404
    assert serving.get("/models/second").status_code == serving.delete("/models/second").status_code == 404
    assert [path.name for path in (settings.data / "artifacts" / "models" / "second").iterdir()] == []


def test_the_least_recently_used_model_is_evicted_first(settings: Settings, registry: ModelRegistry) -> None:
    """The test model takes about 3 MB with its buffers, so an alias and one more model exceed 1 MiB."""
    for model_id in ("first", "second", "third"):
        publish(registry, model_id)
    with TestClient(create_app(settings.model_copy(update={"model_memory_mb": 1}))) as client:
        wait_until_ready(client)
        for model_id in ("second", "third"):
            assert client.get("/generate", params={"class": "cat", "model": model_id}).status_code == 200
        in_memory = {v["manifest"]["id"]: v["provider"] is not None for v in client.get("/models").json()["data"]}
        assert in_memory == {"first": True, "second": False, "third": True}
        assert client.get("/generate", params={"class": "cat", "model": "second"}).status_code == 200


def test_readyz_names_the_model_and_the_provider(serving: TestClient) -> None:
    ready = serving.get("/readyz").json()

    provider = "CUDAExecutionProvider" if has_cuda_device() else "CPUExecutionProvider"
    assert ready == {"status": "ready", "model_id": "first", "provider": provider, "warnings": []}


def test_when_cuda_is_required_and_absent_no_engine_opens(settings: Settings) -> None:
    if has_cuda_device():
        pytest.skip("this machine has CUDA")
    with pytest.raises(NoModelReady, match="KILN_REQUIRE_CUDA"):
        OnnxEngine(make_generator(LATENT, 10), LATENT, 10, settings.model_copy(update={"require_cuda": True}))


def test_the_graph_must_take_the_latent_length_of_the_manifest(settings: Settings) -> None:
    with pytest.raises(CorruptArtifact, match="manifest says 9"):
        OnnxEngine(make_generator(LATENT, 10), LATENT + 1, 10, settings)
