"""What all tests share: a redis-server of their own, settings in a temporary folder, the real CIFAR-10."""

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

# Installations of tests have no model but those they make; tests of the starter model name its folder.
os.environ["KILN_STARTER"] = str(ROOT / "no-starter-model")

# Their tests wait for processes. They come first, so that no worker of pytest-xdist waits for another at the end.
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
        fits = [number for number, prefix in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(prefix)]
        return fits[0] if fits else len(SLOWEST_FIRST)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a redis-server that this test session owns."""
    port = free_port()
    command = redis_command(find_redis_server(), port, tmp_path_factory.mktemp("redis"))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for_redis(port, process)
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The same, emptied."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Settings:
    """Settings of processes that a file's tests share. Redis is emptied where a test asks for `redis_url`."""
    folder = tmp_path_factory.mktemp("shared")
    return Settings(data=folder / "data", datasets=folder / "datasets", redis_url=redis_server, lease_s=2.0, threads=1)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """Settings of a stack of the test's own: Redis, data and data sets in a temporary folder."""
    return small_settings(tmp_path, redis_url)


def small_settings(folder: Path, redis_url: str) -> Settings:
    return Settings(
        data=folder / "data", datasets=folder / "datasets", redis_url=redis_url, lease_s=2.0, threads=1, trainer_nice=0
    )


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """Folder with the official CIFAR-10 in `cifar10/`. Skips without it; under CI that is a failure."""
    folder = os.environ.get("KILN_DATASETS")
    if folder and (Path(folder) / "cifar10").is_dir():
        return Path(folder).resolve()
    reason = f"needs the real CIFAR-10: KILN_DATASETS={folder!r} has no cifar10/"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
