"""Trains one model on several devices of one machine, with one process per device.

Every process draws the same random numbers for the whole batch and keeps its own shard of them. Gradients are averaged
and batch norm takes its statistics over all shards (sync_batch_norm.py), so the result equals that of one device with
the whole batch, up to rounding. Torch's DistributedDataParallel cannot be differentiated twice, as the gradient
penalty requires. docs/explanation/decisions/0003-several-gpus.md gives the reasons.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shared.errors import TrainingFailed

# The other processes wait while the first one evaluates, saves or reads a large data set. If the first one dies, they
# die with it; if it hangs, its supervisor kills it. So no wait needs a limit.
TIMEOUT = timedelta(days=365)


class Ranks:
    """The rank of this process among those that train together, and their collectives. With one process: no-ops."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self.children: list[subprocess.Popen[bytes]] = []

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reports metrics, saves checkpoints and exports."""
        return self.rank == 0

    def local_shard(self, batch: Tensor) -> Tensor:
        """The part of a batch that this process computes: [N, ...] -> [N / count, ...]."""
        return batch if self.count == 1 else batch.chunk(self.count)[self.rank]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over all processes, with a single all-reduce."""
        if self.count == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.count
        for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view(grad.shape))

    def average(self, values: Tensor) -> Tensor:
        """The mean over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def broadcast_from_first(self, values: list[float]) -> list[float]:
        """The first process's values, in every process. Raises TrainingFailed when another process has ended."""
        if self.count == 1:
            return values
        ended = sum(child.poll() is not None for child in self.children)
        if ended:
            raise TrainingFailed(f"{ended} of the {self.count - 1} other training processes ended unexpectedly")
        buffer = torch.tensor(values, dtype=torch.float64)
        try:
            dist.broadcast(buffer, 0)
        except RuntimeError as error:
            raise TrainingFailed(f"another training process of this run has ended: {error}") from error
        return cast(list[float], buffer.tolist())

    def broadcast_bytes(self, data: bytes) -> bytes:
        """The first process's bytes, in every process."""
        if self.count == 1:
            return data
        length = int(self.broadcast_from_first([float(len(data))])[0])
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()


ALONE = Ranks()


@contextmanager
def joined(rank: int, count: int, rendezvous: str) -> Iterator[Ranks]:
    """Joins a group of `count` processes; `rendezvous` is the path of a file that does not exist yet."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, f"file://{rendezvous}", rank=rank, world_size=count, timeout=TIMEOUT)
    try:
        yield Ranks(rank, count)
    finally:
        dist.destroy_process_group()


@contextmanager
def started(count: int, description: str) -> Iterator[Ranks]:
    """Starts the other processes and joins them as the first. They read the run from `description` (runs/rank.py)."""
    if count == 1:
        yield ALONE
        return
    with tempfile.TemporaryDirectory(prefix="kiln-ranks-") as folder:
        rendezvous = str(Path(folder) / "meet")
        command = [sys.executable, "-m", "services.trainer", "rank", "--meet", rendezvous]
        children = []
        try:
            for rank in range(1, count):
                # They end when this process ends; their standard error goes to this process's log.
                child = subprocess.Popen(
                    [*command, "--rank", str(rank), "--parent", str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                )  # fmt: skip
                children.append(child)
                cast(Any, child.stdin).write(description.encode())
                cast(Any, child.stdin).close()
            with joined(0, count, rendezvous) as ranks:
                ranks.children = children
                yield ranks
        finally:
            for child in children:
                child.kill()
                child.wait()
