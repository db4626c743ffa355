"""torch.compile for the networks' forward passes, and a check that this machine has a compiler."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

if TYPE_CHECKING:
    from services.trainer.training.state import TrainState

Forward = TypeVar("Forward", bound=Callable[..., Any])


def compiled(forward: Forward) -> Forward:
    """The function, compiled for each input shape; it draws random numbers as eager code does."""
    return cast(Forward, torch.compile(forward, dynamic=False, options={"fallback_random": True}))


def check_compiler(state: TrainState, num_classes: int) -> str | None:
    """The reason why torch.compile fails on this machine, or None. State and random numbers stay as they are."""
    if not state.runtime.compile:
        return None
    config, device = state.config, state.device
    # With the shapes of training, so that training finds the code in the compiler's cache.
    z = state.ranks.local_shard(torch.zeros(config.batch_size, config.latent_dim, device=device))
    labels = torch.zeros(len(z), dtype=torch.int64, device=device) % num_classes
    generate = compiled(copy.deepcopy(state.generator))
    discriminator = copy.deepcopy(state.discriminator)
    discriminate = compiled(discriminator.forward_with_logits)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), state.autocast():
            discriminate(discriminator.features(generate(z, labels).float()), labels)[0].sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # no C++ compiler, no Triton, or an operation that cannot be compiled
        return str(error).strip().partition("\n")[0][:300] or type(error).__name__
    return None
