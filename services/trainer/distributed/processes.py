"""Several devices of one machine, one process each, that train one model.

Why it is built this way: docs/explanation/decisions/0003-several-gpus.md.

Every process draws the same random numbers for the whole batch and takes its share of it. Gradients are averaged and
batch statistics are taken over all shares, so the result is that of one device with the whole batch, but for rounding.
Torch's own DistributedDataParallel and SyncBatchNorm cannot be differentiated twice, which the gradient penalty needs.
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

PATIENCE = timedelta(minutes=10)  # a process that has waited for the others for so long gives up


class Ranks:
    """This process's place among those that share each batch. Alone, every method does nothing."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self.children: list[subprocess.Popen[bytes]] = []

    @property
    def is_first(self) -> bool:
        """The one that reports, saves and exports."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch [N, ...] -> [N / count, ...]."""
        return batch if self.count == 1 else batch.chunk(self.count)[self.rank]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Each gradient becomes its mean over all processes; one message for all of them."""
        if self.count == 1:
            return
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.count
        for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view(grad.shape))

    def average(self, values: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def agree(self, values: list[float]) -> list[float]:
        """What the first process says. Raises TrainingFailed in the first when another one is gone."""
        if self.count == 1:
            return values
        gone = [child.args for child in self.children if child.poll() is not None]
        if gone:
            raise TrainingFailed(f"{len(gone)} of the {self.count - 1} other training processes ended unexpectedly")
        said = torch.tensor(values, dtype=torch.float64)
        try:
            dist.broadcast(said, 0)
        except RuntimeError as error:
            raise TrainingFailed(f"another training process of this run is gone: {error}") from error
        return cast(list[float], said.tolist())

    def broadcast_bytes(self, data: bytes) -> bytes:
        """The first process's bytes, in every process."""
        if self.count == 1:
            return data
        length = int(self.agree([float(len(data))])[0])
        buffer = torch.zeros(length, dtype=torch.uint8)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()


ALONE = Ranks()


@contextmanager
def joined(rank: int, count: int, rendezvous: str) -> Iterator[Ranks]:
    """Takes a place among `count` processes, which meet at a file that none of them has made yet."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, f"file://{rendezvous}", rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield Ranks(rank, count)
    finally:
        dist.destroy_process_group()


@contextmanager
def started(count: int, describe: str) -> Iterator[Ranks]:
    """Starts the other processes and is the first among them. `describe` is the run, as `trainer rank` reads it."""
    if count == 1:
        yield ALONE
        return
    with tempfile.TemporaryDirectory(prefix="kiln-ranks-") as folder:
        rendezvous = str(Path(folder) / "meet")
        command = [sys.executable, "-m", "services.trainer", "rank", "--meet", rendezvous]
        children = []
        try:
            for rank in range(1, count):
                # They die with this process by themselves; what they print joins this one's log.
                child = subprocess.Popen(
                    [*command, "--rank", str(rank), "--parent", str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                )  # fmt: skip
                children.append(child)
                cast(Any, child.stdin).write(describe.encode())
                cast(Any, child.stdin).close()
            with joined(0, count, rendezvous) as ranks:
                ranks.children = children
                yield ranks
        finally:
            for child in children:
                child.kill()
                child.wait()


class _Total(torch.autograd.Function):
    """Sum over all processes. Every process uses it, so the gradient is the sum over all as well, and so on."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return _total(grads[0])


def _total(x: Tensor) -> Tensor:
    return cast(Tensor, _Total.apply(x))


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the shares of all processes, differentiable twice, on any device."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _total(x.sum((0, 2, 3))) / count
        centered = x - mean[:, None, None]
        variance = _total(centered.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        x = centered * (variance + self.eps).rsqrt()[:, None, None]
        if not self.affine:
            return x
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronize_batch_norms(network: nn.Module) -> None:
    """Makes every batch norm of the network one over all processes; parameters and statistics stay where they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
