"""All that a training run carries from one step to the next, and how to put it away and take it up again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.networks import build_networks
from services.trainer.schedules import ema_decay, learning_rate_factor
from shared.presets import TrainConfig

# What is summed over a tick, in this order; `count` is the number of steps that were summed.
SUMMED = ("loss_d", "loss_g", "gradient_penalty", "d_accuracy_real", "d_accuracy_fake")


class TrainState:
    """Networks, averaged generator, optimizers, position, the metrics so far and every random state.

    A state that was saved and loaded goes on exactly as the one that was saved would have.
    """

    def __init__(self, config: TrainConfig, num_classes: int, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        generator, discriminator = build_networks(config, num_classes)
        # Convolutions are faster on pixels that lie together, on the CPU as on tensor cores.
        self.generator = generator.to(device).to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        betas = (config.adam_beta1, config.adam_beta2)
        self.opt_g = torch.optim.Adam(self.generator.parameters(), config.lr, betas, fused=True)
        self.opt_d = torch.optim.Adam(self.discriminator.parameters(), config.lr_d or config.lr, betas, fused=True)
        self.cur_nimg = 0
        self.wall_seconds = 0.0  # over all attempts; says how long it took, decides nothing
        self.sums = torch.zeros(len(SUMMED), dtype=torch.float64, device=device)
        self.steps_summed = 0
        self.metrics: list[dict[str, float]] = []  # one row per tick, each with its `nimg`

    def set_learning_rates(self) -> float:
        """Sets both optimizers' rates for the present position; returns the generator's."""
        factor = learning_rate_factor(self.config, self.cur_nimg)
        for optimizer, base in ((self.opt_g, self.config.lr), (self.opt_d, self.config.lr_d or self.config.lr)):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        return self.config.lr * factor

    @torch.no_grad()
    def update_ema(self, batch_nimg: int) -> None:
        """Moves the averaged generator's weights towards the present ones. Its batch statistics are not averages."""
        decay = ema_decay(self.config, self.cur_nimg, batch_nimg)
        average: list[Tensor] = list(self.ema.parameters())
        present: list[Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(average, present, 1 - decay)

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that torch can load it with `weights_only=True`."""
        return {
            "config": self.config.model_dump_json(),
            "cur_nimg": self.cur_nimg,
            "wall_seconds": self.wall_seconds,
            "networks": {name: network.state_dict() for name, network in self.networks().items()},
            "optimizers": {"g": self.opt_g.state_dict(), "d": self.opt_d.state_dict()},
            "sums": self.sums,
            "steps_summed": self.steps_summed,
            "metrics": self.metrics,
            "rng_cpu": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, network in self.networks().items():
            network.load_state_dict(saved["networks"][name])
        self.opt_g.load_state_dict(saved["optimizers"]["g"])
        self.opt_d.load_state_dict(saved["optimizers"]["d"])
        self.cur_nimg, self.wall_seconds = saved["cur_nimg"], saved["wall_seconds"]
        self.sums = saved["sums"].to(self.device)
        self.steps_summed = saved["steps_summed"]
        self.metrics = saved["metrics"]
        torch.set_rng_state(saved["rng_cpu"].cpu())
        if saved["rng_device"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["rng_device"].cpu(), self.device)
