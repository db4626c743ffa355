"""One stack for all drills of training jobs; each finds it whole and leaves it to be mended."""

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
    """One redis-server, one API, one worker, and no job that is not over."""
    shared_kiln.mend()
    return shared_kiln
