"""Fixtures for the tests of `shared`."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# A slow machine is no failure: no test depends on the time that an example takes.
hypothesis_settings.register_profile(
    "patient", hypothesis_settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("patient")


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns after almost every step, so that what is not guarded against that comes apart."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


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
