"""Reserves GPUs for a run, so that trainers on one machine do not share a GPU while another is free."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import EnvironmentFailed
from shared.settings import Settings


@dataclass(frozen=True)
class Reservation:
    """The CUDA devices of a run, by index; none without CUDA. `is_shared`: another trainer uses one of them as well."""

    devices: tuple[int, ...] = ()
    is_shared: bool = False


@contextmanager
def reserved_gpus(count: int, settings: Settings) -> Iterator[Reservation]:
    """Reserves `count` of the GPUs that torch sees, which CUDA_VISIBLE_DEVICES may limit. Raises EnvironmentFailed.

    Workers coordinate through the folder KILN_DATA. A worker that does not share it needs CUDA_VISIBLE_DEVICES.
    """
    if not torch.cuda.is_available():
        yield Reservation()
        return
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    with reserved(count, names, settings.data / "work" / "gpus") as reservation:
        yield reservation


@contextmanager
def reserved(count: int, names: Sequence[str], folder: Path) -> Iterator[Reservation]:
    """Reserves the first `count` free devices of this machine; `names` identify them. If too few are free, shares.

    The reservation is a file lock, which ends with the process at the latest. Raises EnvironmentFailed.
    """
    if count > len(names):
        raise EnvironmentFailed(
            f"the config needs {count} GPUs, and this worker sees {len(names)}; resume the job on a larger machine, or "
            "train again with fewer gpus"
        )
    folder.mkdir(parents=True, exist_ok=True)
    locks: dict[int, int] = {}  # index -> file descriptor
    try:
        for index, name in enumerate(names):
            if len(locks) < count and (descriptor := _try_lock(folder / f"{name}.lock")) is not None:
                locks[index] = descriptor
        shared = [index for index in range(len(names)) if index not in locks][: count - len(locks)]
        yield Reservation(tuple(sorted([*locks, *shared])), is_shared=bool(shared))
    finally:
        for descriptor in locks.values():
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """An open file with an exclusive lock, or None if another process holds it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDONLY, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
