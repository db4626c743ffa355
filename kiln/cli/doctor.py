"""`kiln doctor`: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import ctypes
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from urllib.parse import urlsplit

import httpx2

from kiln._requests import ApiError
from kiln.client import Kiln
from shared.settings import Settings, read_client_settings, read_settings

MIN_FREE_GB = 10.0  # checkpoints and sample grids of a few long runs
PACKAGES = {
    "API": ("fastapi", "onnxruntime-gpu"), "trainer": ("torch", "torchvision", "celery"), "dashboard": ("nicegui",),
}  # fmt: skip
CONNECT_S = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `fix` says what to do when it is not well; without one, it is for information."""

    what: str
    is_well: bool
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def examine() -> Iterator[Finding]:
    """All findings, the quick ones first. Raises InvalidInput for a setting that cannot be read."""
    settings = read_settings()
    yield _python()
    yield from _packages()
    for look in (_gpu, _disk, _dataset):
        yield look(settings)
    yield from _services(settings)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", sys.version_info >= (3, 11), version, "Kiln needs 3.11 or newer")


def _packages() -> Iterator[Finding]:
    for service, names in PACKAGES.items():
        found = {name: _version(name) for name in names}
        text = ", ".join(f"{name} {version or 'absent'}" for name, version in found.items())
        yield Finding(f"packages of the {service}", all(found.values()), text, "run `make up`, which installs them")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu(settings: Settings) -> Finding:
    fix = "KILN_REQUIRE_CUDA is set: install NVIDIA's driver, or unset it"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        is_there = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return Finding("GPU", not settings.require_cuda, "no NVIDIA driver; everything runs on the CPU", fix)
    found = f"{count.value} by NVIDIA's driver" if is_there else "the driver is there and sees no GPU"
    return Finding("GPU", is_there or not settings.require_cuda, found, fix)


def _disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    free_gb = shutil.disk_usage(place).free / 1e9
    fix = "free some space, or set KILN_DATA to a folder on another disk"
    return Finding("disk", free_gb >= MIN_FREE_GB, f"{free_gb:.0f} GB free for {settings.data}", fix)


def _dataset(settings: Settings) -> Finding:
    folder = settings.dataset_root / "cifar10"
    is_there = (folder / "cifar-10-batches-py").is_dir()
    own = sorted(path.name for path in settings.dataset_root.glob("*/train") for path in [path.parent])
    cifar = f"CIFAR-10 is in {folder}" if is_there else f"CIFAR-10 is not in {folder}; the first job downloads it"
    return Finding("data sets", True, "; ".join([cifar, *(f"also {name}" for name in own)]))


def _redis(settings: Settings) -> Finding:
    parts = urlsplit(settings.redis_url)
    where = f"{parts.hostname}:{parts.port or 6379}"
    fix = "`kiln up` starts one of its own; else start redis-server or set KILN_REDIS_URL"
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 6379), CONNECT_S).close()
    except OSError as error:
        return Finding("Redis", False, f"nobody listens on {where}: {error}", fix)
    return Finding("Redis", True, f"listens on {where}")


def _services(settings: Settings) -> Iterator[Finding]:
    url = read_client_settings().url
    with Kiln(max_wait_s=0) as kiln:
        is_up, found = _try(lambda: f"{len(kiln.presets.list())} presets")
        yield Finding("API", is_up, f"{url}: {found}", "start it with `kiln up`, or set KILN_URL and KILN_API_KEY")
        if not is_up:
            yield _redis(settings)
            return
        # `kiln up` gives its Redis a port of its own choice; the API knows it.
        has_redis, found = _try(lambda: "it has jobs" if list(kiln.jobs.list(limit=1)) else "it has no jobs yet")
        yield Finding("Redis", has_redis, f"by way of the API: {found}", "start it again; the API finds it by itself")
        is_there, found = _try(lambda: ", ".join(model.id for model in kiln.models.list()) or "none")
        yield Finding("models", is_there and found != "none", found, "train one: `kiln train --watch`")


def _try(call: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, call()
    except (httpx2.TransportError, ApiError) as error:
        return False, str(error)
