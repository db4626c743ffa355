"""Aliases follow the registry: no promotion is reverted, no failure stops the others, deleted models go everywhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.inference.model_pool import ModelPool
from services.api.telemetry import Telemetry
from shared.errors import NoModelReady, UnknownModel
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish, wait_until_ready


@pytest.fixture
def pool(registry: ModelRegistry, settings: Settings) -> ModelPool:
    """A replica's pool, over the models `first` (the default), `second` and `third`."""
    for model_id in ("first", "second", "third"):
        publish(registry, model_id)
    return ModelPool(registry, settings, Telemetry())


@pytest.fixture
def aliases(settings: Settings) -> Path:
    return settings.data / "artifacts" / "aliases"


class SlowLoads:
    """Holds the load of one model until `go` is set."""

    def __init__(self, pool: ModelPool, model_id: str) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        self._open, self._model_id = pool._open, model_id
        pool._open = self.open  # type: ignore[method-assign]

    def open(self, model_id: str) -> Any:
        if model_id == self._model_id:
            self.started.set()
            assert self.go.wait(60)
        return self._open(model_id)


def default_of(pool: ModelPool) -> str:
    model = pool.default()
    assert model is not None
    return model.manifest.id


def test_a_promotion_during_a_refresh_is_not_reverted(pool: ModelPool, registry: ModelRegistry) -> None:
    async def scenario() -> None:
        await pool.refresh()
        # Given a refresh that loads the model to which another replica moved the alias
        registry.set_alias("default", "second")
        slow = SlowLoads(pool, "second")
        refresh = asyncio.create_task(pool.refresh())
        await asyncio.to_thread(slow.started.wait, 60)
        # When the alias is promoted to a third model meanwhile, and the load ends
        await pool.promote("default", "third")
        slow.go.set()
        await refresh
        # Then the promotion stands, in memory and in the registry
        assert (default_of(pool), registry.resolve("default")) == ("third", "third")
        await pool.refresh()
        assert default_of(pool) == "third"

    asyncio.run(scenario())


def test_an_alias_that_is_created_during_a_refresh_is_not_removed(
    pool: ModelPool, registry: ModelRegistry, aliases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await pool.promote("candidate", "second")
        # Given a refresh that has read that the alias is gone
        (aliases / "candidate").unlink()
        target, seen = pool._target, list[str | None]()

        async def promote_after_reading(alias: str) -> str | None:
            result = await target(alias)
            if alias == "candidate" and not seen:
                seen.append(result)
                await pool.promote("candidate", "third")
            return result

        # When the alias is promoted before the refresh goes on
        monkeypatch.setattr(pool, "_target", promote_after_reading)
        await pool.refresh()
        # Then it stays
        assert seen == [None]
        assert (await pool.get("candidate")).manifest.id == "third"

    asyncio.run(scenario())


def test_of_two_promotions_at_once_memory_and_registry_keep_the_same_one(
    pool: ModelPool, registry: ModelRegistry
) -> None:
    async def scenario() -> None:
        for _ in range(10):
            await asyncio.gather(*(pool.promote("default", name) for name in ("first", "second", "third")))
            assert default_of(pool) == registry.resolve("default")

    asyncio.run(scenario())


def damage_record(folder: Path) -> None:
    (folder / "aliases" / "broken").write_bytes(b'{"model_')


def make_record_unreadable(folder: Path) -> None:
    (folder / "aliases" / "broken").unlink()
    (folder / "aliases" / "broken").mkdir()  # reading it is an OSError


def make_manifest_unreadable(folder: Path) -> None:
    manifest = folder / "models" / "second" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()


def damage_generator(folder: Path) -> None:
    (file,) = (folder / "models" / "second").glob("*generator.onnx")
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_record, make_record_unreadable, make_manifest_unreadable, damage_generator])
def test_one_damaged_file_does_not_stop_the_other_aliases(
    damage: Callable[[Path], None], pool: ModelPool, registry: ModelRegistry, settings: Settings
) -> None:
    for alias, model_id in (("another", "first"), ("broken", "second"), ("default", "third"), ("zebra", "third")):
        registry.set_alias(alias, model_id)
    damage(settings.data / "artifacts")

    async def scenario() -> None:
        await pool.refresh()
        served = {alias: model.manifest.id for alias, model in pool._aliases.items()}
        assert served == {"another": "first", "default": "third", "zebra": "third"}
        # And a repaired alias is served again
        publish(registry, "fourth")
        target = settings.data / "artifacts" / "aliases" / "broken"
        if target.is_dir():
            target.rmdir()
        registry.set_alias("broken", "fourth")
        await pool.refresh()
        assert (await pool.get("broken")).manifest.id == "fourth"

    asyncio.run(scenario())


@pytest.fixture
def replicas(settings: Settings, registry: ModelRegistry) -> Iterator[tuple[TestClient, TestClient]]:
    """Two APIs over the same files."""
    for model_id in ("first", "second"):
        publish(registry, model_id)
    with TestClient(create_app(settings)) as one, TestClient(create_app(settings)) as other:
        for client in (one, other):
            wait_until_ready(client)
        yield one, other


def test_a_model_deleted_on_one_replica_is_no_longer_served_by_the_others(
    replicas: tuple[TestClient, TestClient],
) -> None:
    one, other = replicas
    query = {"class": "cat", "model": "second"}
    for client in replicas:
        assert client.get("/generate", params=query).status_code == 200

    assert one.delete("/models/second").status_code == 204
    asyncio.run(other.app.state.kiln.models.refresh())  # type: ignore[attr-defined]

    for client in replicas:
        assert client.get("/generate", params=query).status_code == 404
        assert [view["manifest"]["id"] for view in client.get("/models").json()["data"]] == ["first"]


def test_an_alias_deleted_elsewhere_falls_away_and_its_model_with_it(
    pool: ModelPool, registry: ModelRegistry, aliases: Path
) -> None:
    async def scenario() -> None:
        await pool.promote("candidate", "second")
        (aliases / "candidate").unlink()
        registry.delete("second")
        await pool.refresh()
        for name in ("candidate", "second"):
            with pytest.raises((UnknownModel, NoModelReady)):
                await pool.get(name)

    asyncio.run(scenario())
