"""Trains the networks of w86763777/pytorch-gan-collections for comparison. They are imported from a checkout of it.

Its script `wgangp.py` needs packages that Kiln does not have, so PlainTraining takes the same steps: four loader
workers, a fake batch without gradients, separate forward passes for real and fake, a gradient penalty, Adam. Two
differences are removed by following Kiln's preset: the script doubles the generator's batch, and only flips images.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.plain_pytorch import PlainTraining
from services.trainer.networks.discriminator import Discriminator
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig

LOADER_WORKERS = 4  # as in its script


class PeerDiscriminator(Discriminator):
    """The peer's discriminator with Kiln's signature: labels are ignored, scores are [N]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward_with_logits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        scores: Tensor = self.network(images)
        return scores.flatten(), None


def networks_at(checkout: Path, latent_dim: int) -> tuple[nn.Module, Discriminator]:
    """The peer's CNN for 32 pixels: generator and discriminator. Raises FileNotFoundError without a checkout."""
    file = checkout / "source" / "models" / "wgangp.py"
    spec = importlib.util.spec_from_file_location("peer_wgangp", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; --peer takes a checkout of w86763777/pytorch-gan-collections")
    models: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    return models.Generator32(latent_dim), PeerDiscriminator(models.Discriminator32())


class PeerTraining(PlainTraining):
    def __init__(self, checkout: Path, config: TrainConfig, data: tuple[Tensor, Tensor], device: torch.device) -> None:
        super().__init__(config, *data, device, LOADER_WORKERS)
        generator, discriminator = networks_at(checkout, config.latent_dim)
        self.use_networks(generator.to(device), discriminator.to(device))


def use_peer_networks(state: TrainState, checkout: Path) -> None:
    """Replaces the networks of Kiln's training state by the peer's, so that both train the same ones."""
    generator, discriminator = networks_at(checkout, state.config.latent_dim)
    state.generator, state.discriminator = state._place(generator), state._place(discriminator)
    state.ema = copy.deepcopy(state.generator).requires_grad_(False)
    state.opt_g = state._optimizer(state.generator, state.config.lr)
    state.opt_d = state._optimizer(state.discriminator, state.config.lr_d or state.config.lr)
