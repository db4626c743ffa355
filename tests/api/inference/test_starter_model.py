"""A new installation serves the starter model; an installation with other models does not change."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api.app import create_app
from services.api.inference.starter_model import publish_starter
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import DEFAULT_ALIAS, GENERATOR_FILE, PREVIEW_FILE, ModelRegistry, read_folder
from tests.api.conftest import publish, wait_until_ready
from tests.conftest import ROOT

SHIPPED = ROOT / "models" / "starter"


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """The folder of a model that another installation published."""
    publish(ModelRegistry(ArtifactStore(f"file://{tmp_path}/elsewhere")), "starter")
    return tmp_path / "elsewhere" / "models" / "starter"


def test_a_new_installation_serves_the_starter_model(settings: Settings, starter: Path) -> None:
    # Given an installation that has trained nothing
    fresh = settings.model_copy(update={"starter": starter})
    with TestClient(create_app(fresh)) as client:
        wait_until_ready(client)
        # When a client requests cats, Then they come from the starter model
        answer = client.get("/generate", params={"class": "cat", "n": 16})
        assert (answer.status_code, answer.headers["x-kiln-model"]) == (200, "starter")
        (model,) = client.get("/models").json()["data"]
        assert (model["manifest"]["id"], model["aliases"]) == ("starter", ["default"])


def test_an_installation_with_a_model_does_not_get_the_starter_model(starter: Path, registry: ModelRegistry) -> None:
    publish(registry, "own")
    publish_starter(registry, starter)
    assert [manifest.id for manifest in registry.list()] == ["own"]
    assert registry.aliases() == {DEFAULT_ALIAS: "own"}


def test_publishing_the_starter_model_twice_stores_it_once(starter: Path, registry: ModelRegistry) -> None:
    """Two APIs of one installation start, or one starts again."""
    for _ in range(2):
        publish_starter(registry, starter)
    assert [manifest.id for manifest in registry.list()] == ["starter"]


@pytest.mark.parametrize("damage", ["no folder", "another graph", "no graph", "no manifest"])
def test_a_damaged_starter_model_is_not_published(damage: str, starter: Path, registry: ModelRegistry) -> None:
    (graph,) = starter.glob(f"*.{GENERATOR_FILE}")
    match damage:
        case "no folder":
            shutil.rmtree(starter)
        case "another graph":
            graph.write_bytes(graph.read_bytes()[:-1])
        case "no graph":
            graph.unlink()
        case "no manifest":
            (starter / "manifest.json").write_text("{}")
    publish_starter(registry, starter)
    assert (registry.list(), registry.aliases()) == ([], {})


def test_the_shipped_model_generates_every_class(settings: Settings) -> None:
    # Given a fresh clone
    with TestClient(create_app(settings.model_copy(update={"starter": SHIPPED}))) as client:
        wait_until_ready(client)
        (model,) = client.get("/models").json()["data"]
        # When each class is requested, Then there are sixteen images of it
        for name in model["manifest"]["classes"]:
            answer = client.get("/generate", params={"class": name, "n": 16})
            assert answer.status_code == 200, answer.text
            with Image.open(io.BytesIO(answer.content)) as grid:
                assert grid.size == (128, 128)


def test_the_shipped_model_is_small_and_the_classifier_recognises_its_classes() -> None:
    manifest, files = read_folder(SHIPPED)
    assert len(files[GENERATOR_FILE]) <= 10 * 2**20
    assert PREVIEW_FILE in files
    assert manifest.metrics.protocol is not None
    assert manifest.metrics.protocol["images"] == 10_000
    by_class = manifest.metrics.protocol["class_accuracy"]
    assert set(by_class) == set(manifest.classes)
    # One in ten is chance
    assert manifest.metrics.class_accuracy is not None
    assert manifest.metrics.class_accuracy > 0.5
    assert min(by_class.values()) > 0.25
