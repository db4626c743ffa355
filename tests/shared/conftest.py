"""Fixtures for the tests of `shared`."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# No time limit per example, because machines may be slow.
hypothesis_settings.register_profile(
    "patient", hypothesis_settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("patient")


@pytest.fixture
def frequent_thread_switches() -> Iterator[None]:
    """Makes Python switch threads after almost every step, so that missing locks show."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


LimitedDisk = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def limited_disk() -> LimitedDisk:
    """In `with limited_disk(n):`, a write that makes a file longer than n bytes fails midway."""

    @contextmanager
    def limited(size_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
