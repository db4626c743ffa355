"""Fixtures for all tests: a redis-server, settings in a temporary folder, the real CIFAR-10."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from services.dev import find_redis_server, free_port, redis_command, wait_for_redis
from shared.settings import Settings

ROOT = Path(__file__).parents[1]

# Test installations start without a model. Tests of the starter model set its folder themselves.
os.environ["KILN_STARTER"] = str(ROOT / "no-starter-model")

# These tests wait for processes. They run first, so that no worker of pytest-xdist is left with a slow one at the end.
SLOWEST_FIRST = (
    "tests/e2e/",
    "tests/dashboard/test_pages",
    "tests/drills/",
    "tests/trainer/worker/test_supervisor",
    "tests/trainer/",
    "tests/deployment/",
    "tests/test_",
    "tests/kiln/",
    "tests/benchmarks/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        matches = (rank for rank, prefix in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(prefix))
        return next(matches, len(SLOWEST_FIRST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a redis-server that runs for this test session only."""
    port = free_port()
    command = redis_command(find_redis_server(), port, tmp_path_factory.mktemp("redis"))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for_redis(port, process)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of the session's redis-server, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Settings:
    """Settings for processes that all tests of a file share. Redis is emptied only for tests that use `redis_url`."""
    folder = tmp_path_factory.mktemp("shared")
    return Settings(data=folder / "data", datasets=folder / "datasets", redis_url=redis_server, lease_s=2.0, threads=1)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """Settings for one test: an empty Redis, and data and data sets in a temporary folder."""
    return small_settings(tmp_path, redis_url)


def small_settings(folder: Path, redis_url: str) -> Settings:
    return Settings(
        data=folder / "data", datasets=folder / "datasets", redis_url=redis_url, lease_s=2.0, threads=1, trainer_nice=0
    )


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The folder that contains the official CIFAR-10 as `cifar10/`. Without it the test is skipped; in CI it fails."""
    folder = os.environ.get("KILN_DATASETS")
    if folder and (Path(folder) / "cifar10").is_dir():
        return Path(folder).resolve()
    reason = f"needs the real CIFAR-10: KILN_DATASETS={folder!r} has no cifar10/"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
