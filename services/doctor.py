"""Checks the packages, GPU, disk, data sets and Redis of this machine, and prints JSON for `kiln doctor`."""

from __future__ import annotations

import ctypes
import json
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from shared.errors import EvictingStore, InvalidInput, StoreUnavailable
from shared.redis_url import without_password
from shared.settings import Settings, read_settings
from shared.storage.redis import connect, redis_errors, require_no_eviction

MIN_FREE_GB = 10.0  # checkpoints and sample grids of a few long runs
CONNECT_S = 2.0
PACKAGES = {
    "API": ("fastapi", "onnxruntime-gpu"), "trainer": ("torch", "torchvision", "celery"), "dashboard": ("nicegui",),
}  # fmt: skip

Finding = dict[str, Any]


def main() -> int:
    try:
        settings = read_settings()
    except InvalidInput as error:
        print(json.dumps([_finding("settings", False, str(error), "correct or unset the variable")]))
        return 0
    print(json.dumps([*_packages(), _gpu(settings), _disk(settings), _datasets(settings), _redis(settings)]))
    return 0


def _finding(check: str, is_well: bool, result: str, fix: str = "") -> Finding:
    return {"what": check, "is_well": is_well, "found": result, "fix": fix}


def _packages() -> Iterator[Finding]:
    for service, names in PACKAGES.items():
        versions = {name: _version(name) for name in names}
        text = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        yield _finding(f"packages of the {service}", all(versions.values()), text, "`make up` installs them")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu(settings: Settings) -> Finding:
    fix = "KILN_REQUIRE_CUDA is set: install NVIDIA's driver, or unset the variable"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return _finding("GPU", not settings.require_cuda, "no NVIDIA driver; training and serving use the CPU", fix)
    count = ctypes.c_int(0)
    has_gpu = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    result = f"{count.value} visible to NVIDIA's driver" if has_gpu else "NVIDIA's driver is installed and sees no GPU"
    return _finding("GPU", has_gpu or not settings.require_cuda, result, fix)


def _disk(settings: Settings) -> Finding:
    folder = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    fix = "free some space, or set KILN_DATA to a folder on another disk"
    return _finding("disk", free_gb >= MIN_FREE_GB, f"{free_gb:.0f} GB free for {settings.data}", fix)


def _datasets(settings: Settings) -> Finding:
    cifar10 = settings.dataset_root / "cifar10"
    has_cifar10 = (cifar10 / "cifar-10-batches-py").is_dir()
    state = f"CIFAR-10 is in {cifar10}" if has_cifar10 else f"CIFAR-10 is not in {cifar10}; the first job downloads it"
    others = sorted(path.parent.name for path in settings.dataset_root.glob("*/train"))
    return _finding("data sets", True, "; ".join([state, *(f"also {name}" for name in others)]))


def _redis(settings: Settings) -> Finding:
    client, address = connect(settings.redis_url, CONNECT_S), without_password(settings.redis_url)
    try:
        with redis_errors():
            client.ping()
        require_no_eviction(client)
    except EvictingStore as error:
        return _finding("Redis", False, str(error), "change the policy; until then, the API accepts no jobs")
    except StoreUnavailable as error:
        fix = "`kiln up` starts a Redis of its own; otherwise start redis-server or set KILN_REDIS_URL"
        return _finding("Redis", False, f"no response at {address}: {error}", fix)
    finally:
        client.close()
    return _finding("Redis", True, f"responds at {address}")


if __name__ == "__main__":
    sys.exit(main())
