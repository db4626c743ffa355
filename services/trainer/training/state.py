"""The state of a training run: everything that a checkpoint holds, and how it is saved and loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from services.trainer.data.diffaugment import diffaugment
from services.trainer.data.labels import draw_labels
from services.trainer.distributed.processes import ALONE, Ranks
from services.trainer.distributed.sync_batch_norm import synchronize_batch_norms
from services.trainer.networks.build import build_networks
from services.trainer.networks.strided import lay_out_weights, with_plain_products
from services.trainer.training.compiler import compiled
from services.trainer.training.runtime import Runtime, fastest
from services.trainer.training.schedules import ema_decay, learning_rate_factor, scheduled_nimg
from shared.configs.train import TrainConfig

Network = TypeVar("Network", bound=nn.Module)

# The figures that are summed over a tick, in the order of `TrainState.sums`.
SUMMED = (
    "loss_d",
    "loss_g",
    "gradient_penalty",
    "d_accuracy_real",
    "d_accuracy_fake",
    "class_loss_d",
    "class_loss_g",
)
# Figures that a row has only if the config gives them a weight.
WEIGHTED = {"gradient_penalty": "gp_weight", "class_loss_d": "class_weight", "class_loss_g": "class_weight"}


class Resumable(Protocol):
    """The part of a run's state that messages, checkpoints and exports read: of a TrainState or a PerClassState."""

    @property
    def config(self) -> TrainConfig: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def cur_nimg(self) -> int: ...
    @property
    def wall_seconds(self) -> float: ...
    @property
    def metrics(self) -> list[dict[str, float]]: ...
    @property
    def ema(self) -> nn.Module: ...
    def networks(self) -> dict[str, nn.Module]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, saved: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Best:
    """The best averaged generator so far, by the metric of the config's early_stop."""

    nimg: int
    value: float
    weights: dict[str, Tensor]


class TrainState:
    """Networks, averaged generator, optimizers, position, metrics so far and all random states.

    A loaded state continues exactly as the saved one would have.
    """

    def __init__(
        self,
        config: TrainConfig,
        num_classes: int,
        device: torch.device,
        runtime: Runtime | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.ranks = config, device, ranks
        self.runtime = runtime or fastest(device)
        generator, discriminator = build_networks(config, num_classes, self.runtime.products)
        self.generator, self.discriminator = self._place(generator), self._place(discriminator)
        self.ema = with_plain_products(self.generator).requires_grad_(False)
        if ranks.count > 1:
            synchronize_batch_norms(self.generator)
            synchronize_batch_norms(self.discriminator)
        self._compiled: tuple[Any, Any] | None = None
        if self.runtime.compile:
            self._compiled = compiled(self.generator), compiled(self.discriminator.forward_with_logits)
        self.opt_g = self._optimizer(self.generator, config.lr)
        self.opt_d = self._optimizer(self.discriminator, config.lr_d or config.lr)
        self.cur_nimg = 0
        self.wall_seconds = 0.0  # of training, over all attempts; changes nothing unless the config has max_minutes
        self.sums = torch.zeros(len(SUMMED), dtype=torch.float64, device=device)
        self.steps_summed = 0
        self.metrics: list[dict[str, float]] = []  # one row per tick, each with its `nimg`
        self.best: Best | None = None  # set if the config has early_stop

    def _place(self, network: Network) -> Network:
        network = network.to(self.device)
        if self.runtime.channels_last:
            network = network.to(memory_format=torch.channels_last)
        lay_out_weights(network)
        return network

    def _optimizer(self, network: nn.Module, lr: float) -> torch.optim.Adam:
        betas = (self.config.adam_beta1, self.config.adam_beta2)
        # A recorded step reads its rate from the device; a number would be recorded with it.
        capture = self.runtime.capture
        rate = torch.tensor(lr, device=self.device) if capture else lr
        return torch.optim.Adam(network.parameters(), rate, betas, fused=True, capturable=capture)

    def set_learning_rates(self) -> float:
        """Sets both optimizers' learning rates for the current position; returns the generator's."""
        factor = learning_rate_factor(self.config, self.schedule_nimg)
        for optimizer, base in ((self.opt_g, self.config.lr), (self.opt_d, self.config.lr_d or self.config.lr)):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(base * factor)
                else:
                    group["lr"] = base * factor
        return self.config.lr * factor

    @property
    def schedule_nimg(self) -> int:
        """Position of the schedules in images; ahead of `cur_nimg` if the time limit comes before the image budget."""
        return scheduled_nimg(self.config, self.cur_nimg, self.wall_seconds)

    @torch.no_grad()
    def update_ema(self, batch_nimg: int) -> None:
        """Moves the averaged generator's weights towards the current ones. Batch statistics are not averaged."""
        decay = ema_decay(self.config, self.cur_nimg, batch_nimg)
        average: list[Tensor] = list(self.ema.parameters())
        current: list[Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(average, current, 1 - decay)

    def generate(self, z: Tensor, labels: Tensor) -> Tensor:
        """The generator's images [N, C, H, W], by compiled code where the runtime compiles."""
        images: Tensor = (self._compiled[0] if self._compiled else self.generator)(z, labels)
        return images

    def diffaugment(self, images: Tensor) -> Tensor:
        """Real or generated images [N, 3, H, W] as the discriminator sees them: augmented if the config says so."""
        config, total = self.config, len(images) * self.ranks.count
        if not config.diffaugment:
            return images

        def draw() -> Tensor:
            return self.ranks.local_shard(torch.rand(total, device=self.device))

        return diffaugment(images, config.diffaugment, config.diffaugment_p, draw)

    def discriminate(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The discriminator's scores and logits, likewise. Not differentiable twice; `discriminator(...)` is."""
        forward = self._compiled[1] if self._compiled else self.discriminator.forward_with_logits
        result: tuple[Tensor, Tensor | None] = forward(features, labels)
        return result

    def autocast(self) -> AbstractContextManager[Any]:
        """The config's precision for everything inside the context; weights stay in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def draw_latents(self, count: int | None = None) -> Tensor:
        """This process's shard of `count` latents, by default a batch. The number of processes does not change them."""
        shape = (self.config.batch_size if count is None else count, self.config.latent_dim)
        return self.ranks.local_shard(torch.randn(shape, device=self.device))

    def draw_labels(self, labels: Tensor) -> Tensor:
        """The same for classes; `labels` are those of all training images."""
        return self.ranks.local_shard(draw_labels(labels, self.config.batch_size))

    def draw_mix(self) -> Tensor:
        return self.ranks.local_shard(torch.rand(self.config.real_batch_size, device=self.device))

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}

    def find_nonfinite(self) -> str | None:
        """The name of a figure, weight, batch statistic or optimizer moment that is NaN or infinite, or None."""
        named = dict(zip(SUMMED, self.sums, strict=True))
        for network_name, network in self.networks().items():
            named |= {f"{network_name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in (("generator", self.opt_g), ("discriminator", self.opt_d)):
            for key, parameter in getattr(self, name).named_parameters():
                for moment, value in optimizer.state.get(parameter, {}).items():
                    named[f"the optimizer's {moment} of {name}.{key}"] = value
        is_finite = torch.stack([torch.isfinite(value).all().to(self.device) for value in named.values()]).tolist()
        return next((name for name, finite in zip(named, is_finite, strict=True) if not finite), None)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that torch loads it with `weights_only=True`."""
        return {
            "config": self.config.model_dump_json(),
            "cur_nimg": self.cur_nimg,
            "wall_seconds": self.wall_seconds,
            "networks": {name: network.state_dict() for name, network in self.networks().items()},
            "optimizers": {"g": _with_plain_rates(self.opt_g), "d": _with_plain_rates(self.opt_d)},
            "sums": self.sums,
            "steps_summed": self.steps_summed,
            "metrics": self.metrics,
            "best": None if self.best is None else vars(self.best),
            "rng_cpu": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, network in self.networks().items():
            network.load_state_dict(saved["networks"][name])
        _load_optimizer(self.opt_g, saved["optimizers"]["g"])
        _load_optimizer(self.opt_d, saved["optimizers"]["d"])
        self.cur_nimg, self.wall_seconds = saved["cur_nimg"], saved["wall_seconds"]
        self.sums = saved["sums"].to(self.device)
        self.steps_summed = saved["steps_summed"]
        self.metrics = saved["metrics"]
        self.best = Best(**saved["best"]) if saved.get("best") else None
        torch.set_rng_state(saved["rng_cpu"].cpu())
        if saved["rng_device"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["rng_device"].cpu(), self.device)


def _with_plain_rates(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state: dict[str, Any] = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Loads the moments. Learning rates, flags and the order in memory stay those of this run's own paths."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
        for parameter in group["params"]:
            for name, value in optimizer.state[parameter].items():
                if name == "step":
                    is_on_device = options["fused"] or options["capturable"]
                    optimizer.state[parameter][name] = value.to(parameter.device if is_on_device else "cpu")
                else:
                    optimizer.state[parameter][name] = torch.empty_like(parameter).copy_(value).detach()
