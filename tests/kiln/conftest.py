"""An API process that serves one model, and the job store behind it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.kiln.command import Run, run
from tests.processes import running_api, wait_for


@pytest.fixture(scope="module")
def api(shared_settings: Settings) -> Iterator[str]:
    """The address of an API that serves the model `first`."""
    publish(ModelRegistry(ArtifactStore(shared_settings.artifact_url)), "first")
    with running_api(shared_settings) as http:
        wait_for(lambda: http.get("/readyz").status_code, lambda status: status == 200)
        yield str(http.base_url)


@pytest.fixture
def url(api: str, redis_url: str) -> str:
    """The same API, with an empty job store."""
    return api


@pytest.fixture
def command(url: str, tmp_path: Path) -> Run:
    """Runs `kiln *arguments` in an empty folder against that API."""
    return partial(run, url, tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore(settings.redis_url)
    yield store
    store.close()
