"""An ETag names everything that may change a bit of the file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL
import pytest
from fastapi.testclient import TestClient

from services.api.images import response_cache
from services.generator import devices

PATHS = ("/generate?class=cat&seed=1", "/interpolate?from=cat&to=dog&seed=1&steps=2")


@pytest.fixture(autouse=True)
def new_environment() -> Iterator[None]:
    """The environment is read once per process."""
    response_cache._environment.cache_clear()
    yield
    response_cache._environment.cache_clear()


def etags(client: TestClient) -> list[str]:
    return [client.get(path).headers["etag"] for path in PATHS]


@pytest.mark.parametrize(("module", "name", "value"), [
    (onnxruntime, "__version__", "9.9.9"), (np, "__version__", "9.9.9"), (PIL, "__version__", "99.0"),
    (zlib, "ZLIB_RUNTIME_VERSION", "9.9"), (response_cache, "REVISION", 999),
    (response_cache, "processor_of", str.lower),
])  # fmt: skip
def test_another_library_or_processor_gives_another_etag(
    module: Any, name: str, value: Any, served: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = etags(served)
    assert etags(served) == before

    monkeypatch.setattr(module, name, value)
    response_cache._environment.cache_clear()

    for path, old, new in zip(PATHS, before, etags(served), strict=True):
        assert old != new
        # And the client gets the file of this environment, not a 304
        assert served.get(path, headers={"If-None-Match": old}).status_code == 200
        assert served.get(path, headers={"If-None-Match": new}).status_code == 304


def test_another_provider_gives_another_etag() -> None:
    assert response_cache.etag_of(devices.CPU, "cat") != response_cache.etag_of(devices.CUDA, "cat")


def test_the_processor_is_named_with_its_instruction_sets() -> None:
    """onnxruntime chooses its kernels by them."""
    name = devices.processor_of(devices.CPU)

    assert name == devices.processor_of(devices.CPU)
    assert len(name.split()) > 10 or "flags" not in Path("/proc/cpuinfo").read_text()
