"""Batch norm whose statistics cover all processes of a run, on any device, and which can be differentiated twice.

Torch's SyncBatchNorm runs on CUDA only and cannot be differentiated twice, as the gradient penalty requires.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


class AllReduceSum(torch.autograd.Function):
    """The sum over all processes. Each process uses the sum, so the gradient is a sum over all processes too."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return all_reduce_sum(grads[0])


def all_reduce_sum(x: Tensor) -> Tensor:
    return cast(Tensor, AllReduceSum.apply(x))


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with statistics over the shards of all processes, in fp32 whatever the precision of the images."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        images, x = x, x.float()
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = all_reduce_sum(x.sum((0, 2, 3))) / count
        centered = x - mean[:, None, None]
        variance = all_reduce_sum(centered.square().sum((0, 2, 3))) / count
        self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1))
        x = centered * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            x = torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])
        return x.to(images.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronize_batch_norms(network: nn.Module) -> None:
    """Makes every batch norm of the network a SyncedBatchNorm2d; parameters and running statistics stay in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
