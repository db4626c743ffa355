"""Fixtures: the API in this process, with a real Redis and a small hand-made model."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from shared.configs.presets import PRESETS
from shared.configs.train import TrainConfig
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import (
    GENERATOR_FILE,
    Memorisation,
    ModelManifest,
    ModelMetrics,
    ModelRegistry,
    Parity,
)
from tests.api.graphs import make_generator

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LATENT = 8


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    return ModelRegistry(ArtifactStore(settings.artifact_url))


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """An API without a model."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def serving(settings: Settings, registry: ModelRegistry) -> Iterator[TestClient]:
    """An API that serves the model `first`."""
    publish(registry, "first")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="module")
def served(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One API with the model `first` for all tests of a module; these tests must not change its state."""
    data = tmp_path_factory.mktemp("served")
    settings = Settings(data=data, redis_url=redis_server, threads=2)
    publish(ModelRegistry(ArtifactStore(settings.artifact_url)), "first")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def publish(
    registry: ModelRegistry, model_id: str, *, graph: bytes | None = None, conditional: bool = True,
    more: dict[str, bytes] | None = None, config: TrainConfig = PRESETS["tiny"].config,
    metrics: ModelMetrics | None = None, classes: tuple[str, ...] = CLASSES,
    latent_dim: int = LATENT, memorisation: Memorisation | None = None,
) -> ModelManifest:  # fmt: skip
    """Publishes a model whose images depend on z and on the class; the weights depend on the id."""
    graph = graph if graph is not None else make_generator(LATENT, len(CLASSES), seed=sum(model_id.encode()))
    draft = ModelManifest(
        id=model_id, job_id=f"job-of-{model_id}", created_at=datetime.now(UTC), preset="tiny",
        config=config, dataset="cifar10", classes=classes, latent_dim=latent_dim, conditional=conditional,
        parity=Parity(max_abs_difference=0.0, batch_sizes=(1,)), images_seen=1, device="hand", wall_seconds=0.0,
        metrics=metrics or ModelMetrics(), memorisation=memorisation,
    )  # fmt: skip
    return registry.publish(draft, {GENERATOR_FILE: graph} | (more or {}))


def wait_until_ready(client: TestClient) -> None:
    """Polls /readyz, as a client does: models are loaded in the background."""
    for _ in range(10_000):
        if client.get("/readyz").status_code == 200:
            return
    raise AssertionError(client.get("/readyz").text)
