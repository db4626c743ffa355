"""A running stack with a data set of two colours, shared by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import Stack, running_stack, write_color_dataset


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    write_color_dataset(folder / "datasets")
    with running_stack(folder / "data", folder / "datasets") as stack:
        yield stack
