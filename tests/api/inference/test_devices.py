"""Devices: models fall back from CUDA graphs, and a GPU that onnxruntime cannot use is reported.

This machine needs no GPU. The tests replace onnxruntime's sessions by sessions on the CPU that fail where CUDA's do.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.inference.loaded_model import LoadedModel
from services.api.telemetry import Telemetry
from services.generator import devices, engine
from services.generator.devices import CPU, CUDA
from services.generator.engine import OnnxEngine
from shared.errors import CorruptArtifact, NoModelReady
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish, wait_until_ready
from tests.api.graphs import make_generator

GRAPH = make_generator(LATENT, len(CLASSES))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A GPU that the driver sees. The list records for each session whether CUDA graphs were enabled."""
    opened: list[bool] = []
    session_class = onnxruntime.InferenceSession

    def on_the_cpu(graph: bytes, options: Any, providers: list[Any]) -> Any:
        opened.append(any(isinstance(entry, tuple) and entry[1]["enable_cuda_graph"] == "1" for entry in providers))
        return session_class(graph, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    for module in (devices, engine):
        monkeypatch.setattr(module, "has_cuda_device", lambda: True)
    return opened


def refuse(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """CUDA graphs are refused when the session opens, when a bucket is warmed, or when the first batch runs."""
    target = {"opening": "_open", "capturing": "_warm", "the first batch": "_check_images"}[where]
    original = getattr(OnnxEngine, target)

    def refusing(self: OnnxEngine, *args: Any) -> Any:
        if self._uses_cuda_graphs:
            raise CorruptArtifact("graph capture is not possible: the model has control flow nodes")
        return original(self, *args)

    monkeypatch.setattr(OnnxEngine, target, refusing)


@pytest.mark.parametrize("where", ["opening", "capturing", "the first batch"])
def test_a_model_that_cuda_graphs_refuse_is_served_without_them(
    where: str, gpu: list[bool], settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(monkeypatch, where)

    subject = OnnxEngine(GRAPH, LATENT, len(CLASSES), settings)

    assert subject.run(np.zeros((3, LATENT), np.float32), np.arange(3)).shape == (3, 32, 32, 3)
    assert not gpu[-1]
    assert "without CUDA graphs" in caplog.text
    assert "control flow" in caplog.text


def test_a_broken_model_is_still_refused_where_cuda_graphs_are_tried_first(gpu: list[bool], settings: Settings) -> None:
    with pytest.raises(CorruptArtifact, match="cannot open"):
        OnnxEngine(b"not a graph", LATENT, len(CLASSES), settings)


def test_when_cuda_is_required_and_does_not_load_no_engine_opens(gpu: list[bool], settings: Settings) -> None:
    with pytest.raises(NoModelReady, match="onnxruntime runs on CPUExecutionProvider"):
        OnnxEngine(GRAPH, LATENT, len(CLASSES), settings.model_copy(update={"require_cuda": True}))


def test_where_cuda_does_not_load_all_cores_are_used_and_readyz_and_the_log_say_so(
    gpu: list[bool], settings: Settings, registry: ModelRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    publish(registry, "first")
    caplog.set_level(logging.INFO)
    with TestClient(create_app(settings.model_copy(update={"threads": 3}))) as client:
        wait_until_ready(client)
        ready = client.get("/readyz").json()
        assert client.get("/generate", params={"class": "cat", "n": 8}).status_code == 200
        model = client.app.state.kiln.models.default()  # type: ignore[attr-defined]

    assert (ready["provider"], model._engine.workers) == (CPU, 3)
    (warning,) = ready["warnings"]
    assert warning.startswith("a GPU is visible, but onnxruntime did not load its CUDA provider")
    assert "\n" not in warning
    assert [record for record in caplog.records if record.levelno == logging.WARNING and warning in record.getMessage()]


def load(registry: ModelRegistry, settings: Settings) -> LoadedModel:
    return LoadedModel(publish(registry, "first"), GRAPH, settings, Telemetry())


def test_the_log_lists_the_usable_batch_sizes(
    settings: Settings, registry: ModelRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load(registry, settings)

    (record,) = [record for record in caplog.records if "usable batch sizes" in record.getMessage()]
    assert record.levelno == logging.INFO
    assert "1, 2, 4, 8, 16, 32, 64" in record.getMessage()


def test_fewer_usable_batch_sizes_than_expected_are_a_warning(
    settings: Settings, registry: ModelRegistry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = OnnxEngine._warm

    def without_two_and_eight(self: OnnxEngine) -> Any:
        slots, seconds = warm(self)
        return slots, {size: seconds[size] for size in seconds if size not in (2, 8)}

    monkeypatch.setattr(OnnxEngine, "_warm", without_two_and_eight)
    load(registry, settings)

    (record,) = [record for record in caplog.records if "usable batch sizes" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "1, 4, 16, 32, 64" in record.getMessage()
    assert "without 2, 8" in record.getMessage()
