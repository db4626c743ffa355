"""The stack that all drills of training jobs share; it is reset before each drill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drills.harness import Kiln


@pytest.fixture(scope="session")
def shared_kiln(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kiln]:
    kiln = Kiln(tmp_path_factory.mktemp("kiln"))
    try:
        yield kiln
    finally:
        kiln.close()


@pytest.fixture(scope="module", autouse=True)
def _idle_after_each_file(shared_kiln: Kiln) -> Iterator[None]:
    """The last drill of a file may leave an endless job, which would slow all tests that follow."""
    yield
    shared_kiln.kill_workers()


@pytest.fixture
def kiln(shared_kiln: Kiln) -> Kiln:
    """One redis-server, one API, one worker, and no unfinished job."""
    shared_kiln.reset()
    return shared_kiln
