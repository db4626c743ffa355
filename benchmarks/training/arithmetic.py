"""Floating-point operations of a training step, and the device's rate in matrix products, which limits its speed."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from services.trainer.data.datasets import ImageDataset
from services.trainer.training.runtime import PLAIN
from services.trainer.training.state import TrainState
from services.trainer.training.steps import train_iteration
from shared.configs.train import TrainConfig

SIDE, REPEATS = {"cpu": 1024, "cuda": 8192}, 10


def flops_per_image(config: TrainConfig) -> float:
    """Floating-point operations of the reference implementation per image seen. Only products are counted.

    Winograd convolutions need fewer, so a share of the matmul rate may exceed 100 %.
    """
    cpu, config = torch.device("cpu"), config.model_copy(update={"batch_size": 4, "precision": "fp32"})
    state = TrainState(config, 10, cpu, PLAIN)
    nimg = config.n_critic * config.real_batch_size
    dataset = ImageDataset(
        torch.zeros(nimg, 3, 32, 32, dtype=torch.uint8), torch.arange(nimg) % 10, tuple("0123456789")
    )
    with _Counter() as counter:
        train_iteration(state, dataset, torch.arange(nimg))
    flops: float = counter.flops
    return flops / nimg


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """As torch's FlopCounterMode, without its module hooks, which fail in a double backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: float = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def matmul_flops_per_second(device: torch.device, threads: int, *, small: bool = False) -> dict[str, float]:
    """The fastest of several products of square matrices, by precision.

    On CUDA, `fp32` is measured with TF32, which cuDNN's convolutions use by default.
    """
    torch.set_num_threads(threads)
    side = 128 if small else SIDE[device.type]
    torch.backends.cuda.matmul.allow_tf32 = True
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2, side, side, device=device, dtype=dtype)
        best_s = float("inf")
        for _ in range(REPEATS):
            started_s = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - started_s)
        rates[name] = 2 * side**3 / best_s
    return rates
