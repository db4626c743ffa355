"""The memory of an evicted model is free at once, without the cyclic garbage collector."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.api.inference.loaded_model import LoadedModel
from services.api.telemetry import Telemetry
from services.generator.latents import stream_of
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator
from tests.processes import ROOT, wait_for

ROUNDS = 50
# Each round loads another model of 24 MB into a pool that may hold none beside the alias, uses it, and evicts it.
EVICT = """
import asyncio, gc, sys
from pathlib import Path
from services.generator.latents import stream_of
from services.api.inference.model_pool import ModelPool
from services.api.telemetry import Telemetry
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, publish
from tests.api.graphs import make_generator

LATENT, ROUNDS = 2000, int(sys.argv[2])
gc.disable()

def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

async def main():
    settings = Settings(data=Path(sys.argv[1]), threads=2, model_memory_mb=1)
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    for model_id in ("first", "second"):
        publish(registry, model_id, latent_dim=LATENT, graph=make_generator(LATENT, len(CLASSES)))
    pool, before = ModelPool(registry, settings, Telemetry()), 0.0
    for number in range(ROUNDS + 5):
        model = await pool.get(("first", "second")[number % 2])
        await model.sample(stream_of(1, range(3)), [0, 1, 2])
        del model
        if number == 4:
            before = rss_mb()
    print(rss_mb() - before)

asyncio.run(main())
"""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def error_of(model: LoadedModel, label: int) -> str:
    """The message of a failing batch. (pytest.raises would keep the error, and that the model.)"""
    try:
        await model.sample(stream_of(1, range(1)), [label])
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("use", ["loaded", "sampled", "interpolated", "failed"])
def test_a_model_is_freed_with_its_last_reference(use: str, settings: Settings, registry: ModelRegistry) -> None:

    model = LoadedModel(publish(registry, "first"), make_generator(LATENT, len(CLASSES)), settings, Telemetry())
    if use == "sampled":
        asyncio.run(model.sample(stream_of(1, range(3)), [0, 1, 2]))
    elif use == "interpolated":
        weights = np.full((2, len(CLASSES)), 1 / len(CLASSES), dtype=np.float32)
        asyncio.run(model.sample(stream_of(1, range(2)), weights))
    elif use == "failed":
        assert "out of data bounds" in asyncio.run(error_of(model, len(CLASSES) + 1))
    parts = [weakref.ref(part) for part in (model, model._engine, model._batcher)]

    del model

    # At once, but for a worker that still clears its last variables
    wait_for(lambda: [part() is None for part in parts], all)


def test_50_evicted_models_leave_no_memory_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVICT, str(tmp_path), str(ROUNDS)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5 * 24  # that is five models; 50 were loaded
