"""The networks and the loss of w86763777/pytorch-gan-collections, read from a checkout of it; none of it is kept here.

Its script `wgangp.py` needs packages that Kiln does not have, so its steps are taken by PlainTraining, which takes the
same ones: four loader workers, a fake batch without gradients, real and fake scored one after the other, a penalty,
Adam. Its batch for the generator is twice as large, and it flips only; for the comparison both follow Kiln's preset.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain_pytorch import PlainTraining
from services.trainer.networks.discriminator import Discriminator
from services.trainer.training.state import TrainState
from shared.configs.presets import TrainConfig

LOADER_WORKERS = 4  # as its script has it


class Scores(Discriminator):
    """Its discriminator with Kiln's signature: labels are ignored, scores are [N]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        scores: Tensor = self.network(images)
        return scores.flatten(), None


def networks_at(checkout: Path, latent_dim: int) -> tuple[nn.Module, Discriminator]:
    """Its CNN for 32 pixels: generator and discriminator."""
    file = checkout / "source" / "models" / "wgangp.py"
    spec = importlib.util.spec_from_file_location("peer_wgangp", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"{file} is not there; --peer takes a checkout of w86763777/pytorch-gan-collections")
    models: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    return models.Generator32(latent_dim), Scores(models.Discriminator32())


class PeerTraining(PlainTraining):
    def __init__(self, checkout: Path, config: TrainConfig, data: tuple[Tensor, Tensor], device: torch.device) -> None:
        super().__init__(config, *data, device, LOADER_WORKERS)
        generator, discriminator = networks_at(checkout, config.latent_dim)
        self.use_networks(generator.to(device), discriminator.to(device))


def train_instead(state: TrainState, checkout: Path) -> None:
    """Puts its networks into a state of Kiln's, so that both ways train the same ones."""
    generator, discriminator = networks_at(checkout, state.config.latent_dim)
    state.generator, state.discriminator = state._place(generator), state._place(discriminator)
    state.ema = copy.deepcopy(state.generator).requires_grad_(False)
    state.opt_g = state._optimizer(state.generator, state.config.lr)
    state.opt_d = state._optimizer(state.discriminator, state.config.lr_d or state.config.lr)
