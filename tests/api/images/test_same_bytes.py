"""The same image has the same bytes, whatever else is generated at the same time.

The engine is the real one; the networks are the starter model and a smaller network with random weights. The tests vary
the number of images, their order and the concurrent requests.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from services.api.inference.loaded_model import LoadedModel
from services.api.telemetry import Telemetry
from services.generator.engine import OnnxEngine, min_cost_buckets
from services.generator.latents import stream_of
from services.trainer.export.onnx import export_generator
from services.trainer.networks.build import build_networks
from shared.configs.presets import resolve
from shared.settings import Settings
from shared.storage.model_registry import GENERATOR_FILE, ModelManifest, Parity
from tests.api.conftest import CLASSES

SEEDS, INDICES = 3, 20
STARTER = Path(__file__).parents[3] / "models" / "starter"
CONFIG = resolve("tiny", {"architecture": "resnet", "g_channels": [16, 16, 8, 8], "latent_dim": 16})


@pytest.fixture(scope="module")
def graph() -> bytes:
    torch.manual_seed(0)
    generator, _ = build_networks(CONFIG, len(CLASSES))
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = torch.randn(module.num_features), torch.rand(module.num_features)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    return export_generator(generator, CONFIG)


@pytest.fixture(scope="module", params=["small", "starter"])
def model(request: pytest.FixtureRequest, graph: bytes, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """With two workers, so that batches really run at the same time."""
    if request.param == "starter":
        manifest = ModelManifest.model_validate_json((STARTER / "manifest.json").read_text())
        graph = (STARTER / GENERATOR_FILE).read_bytes()
    else:
        manifest = ModelManifest(
            id="small", job_id="small", created_at=datetime.now(UTC), preset="tiny", config=CONFIG, dataset="cifar10",
            classes=CLASSES, latent_dim=CONFIG.latent_dim, conditional=True, images_seen=1, device="cpu",
            wall_seconds=0.0, parity=Parity(max_abs_difference=0.0, batch_sizes=(1,)), files={GENERATOR_FILE: "0" * 64},
        )  # fmt: skip
    return LoadedModel(manifest, graph, Settings(data=tmp_path_factory.mktemp("same"), threads=2), Telemetry())


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> dict[tuple[int, int, int], bytes]:
    """(class, seed, index) -> the image, generated alone."""
    keys = [(label, seed, index) for label in (0, 3, 9) for seed in range(SEEDS) for index in range(INDICES)]

    async def make() -> list[bytes]:
        return [await generate_png(model, label, seed, range(index, index + 1)) for label, seed, index in keys]

    return dict(zip(keys, asyncio.run(make()), strict=True))


async def generate_png(model: LoadedModel, label: int, seed: int, indices: range) -> bytes:
    return (await model.sample(stream_of(seed, indices), [label] * len(indices))).tobytes()


requests = st.tuples(
    st.sampled_from((0, 3, 9)), st.integers(0, SEEDS - 1), st.integers(0, INDICES - 1), st.integers(1, INDICES)
)


@hypothesis_settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crowd=st.lists(st.lists(requests, min_size=1, max_size=8), min_size=1, max_size=4))
def test_concurrent_requests_never_change_the_bytes_of_an_image(
    crowd: list[list[tuple[int, int, int, int]]], model: LoadedModel, alone: dict[tuple[int, int, int], bytes]
) -> None:
    async def client(requested: list[tuple[int, int, int, int]]) -> None:
        for label, seed, first, n in requested:
            indices = range(first, min(first + n, INDICES))
            expected = b"".join(alone[label, seed, index] for index in indices)
            assert await generate_png(model, label, seed, indices) == expected, (label, seed, indices)

    async def scenario() -> None:
        await asyncio.gather(*(client(requested) for requested in crowd))

    asyncio.run(scenario())


def test_a_bucket_that_rounds_differently_is_not_used(
    graph: bytes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a runtime whose kernel for two images, and for four in the last place, is off by one bit."""
    run = OnnxEngine._run_warm

    def off_by_a_bit(engine: OnnxEngine, binding: object, z: np.ndarray, classes: np.ndarray) -> object:
        images, seconds = run(engine, binding, z, classes)  # type: ignore[arg-type]
        if len(z) in (2, 4):
            images[-1] = np.nextafter(images[-1], np.float32(2))
        return images, seconds

    monkeypatch.setattr(OnnxEngine, "_run_warm", off_by_a_bit)
    engine = OnnxEngine(graph, CONFIG.latent_dim, len(CLASSES), settings)

    assert engine.buckets == (1, 8, 16, 32, 64)
    assert {size for count in range(1, 64) for size in engine._sizes(count)} <= set(engine.buckets)


def test_where_the_position_in_a_batch_matters_every_image_is_run_alone(
    graph: bytes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxEngine._run_warm

    def by_place(engine: OnnxEngine, binding: object, z: np.ndarray, classes: np.ndarray) -> object:
        images, seconds = run(engine, binding, z, classes)  # type: ignore[arg-type]
        return images * np.linspace(0.5, 1, len(z), dtype=np.float32)[:, None, None, None], seconds

    monkeypatch.setattr(OnnxEngine, "_run_warm", by_place)
    engine = OnnxEngine(graph, CONFIG.latent_dim, len(CLASSES), settings)

    assert engine.buckets == (1,)
    assert list(engine._sizes(3)) == [1, 1, 1]


def test_a_batch_is_split_into_the_buckets_that_take_the_least_time() -> None:
    by_image = min_cost_buckets({1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08, 16: 0.16})
    by_call = min_cost_buckets({1: 0.5, 2: 0.5, 4: 0.5, 8: 0.5, 16: 0.5})

    assert by_image[13] == (8, 4, 1)
    assert by_call[13] == (16,)
    assert by_call[1] in ((1,), (2,), (4,), (8,), (16,))
