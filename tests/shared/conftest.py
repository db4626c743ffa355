"""What the tests of `shared` share."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

DiskWithRoomFor = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def disk_with_room_for() -> DiskWithRoomFor:
    """`with disk_with_room_for(n):` the kernel refuses to make any file longer than n bytes, midway through a write."""

    @contextmanager
    def limited(size_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
