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


@pytest.fixture
def kiln(shared_kiln: Kiln) -> Kiln:
    """One redis-server, one API, one worker, and no unfinished job."""
    shared_kiln.reset()
    return shared_kiln
