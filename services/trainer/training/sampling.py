"""Sample grids of a run, and batch statistics for averaged weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from services.trainer.data.augment import to_bytes
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.labels import draw_labels
from shared.configs.train import TrainConfig

GRID_IMAGES = 100  # ten rows of ten; one class per row where there are ten
BATCH = 64
NORM_IMAGES = 4096  # number of images behind the batch statistics of an exported or evaluated model


def sample_grid(generator: nn.Module, config: TrainConfig, dataset: ImageDataset, *, reestimate: bool = True) -> Tensor:
    """Images [100, 3, H, W] uint8 on the CPU, of the same latents in every grid of a run; one class per row.

    Does not change torch's global random state.
    """
    device = next(generator.parameters()).device
    if reestimate:
        standing_statistics(generator, config, dataset.labels, images=10 * BATCH)
    z = torch.randn(GRID_IMAGES, config.latent_dim, generator=_own_generator(config, "grid")).to(device)
    labels = (torch.arange(GRID_IMAGES) // 10 % len(dataset.classes)).to(device)
    generator.eval()
    with torch.no_grad():
        images = torch.cat([generator(z[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(z), BATCH)])
    return to_bytes(images).cpu()


def standing_statistics(generator: nn.Module, config: TrainConfig, data_labels: Tensor, images: int) -> None:
    """Replaces the running statistics of all batch norms by plain averages over `images` generated images.

    Their classes come in the proportions of `data_labels`, the labels of all training images, or equally often with
    `balance_classes`, as in training.
    The trained network's statistics do not fit averaged weights (Brock et al. 2019, arXiv:1809.11096, appendix C:
    "standing statistics").
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    device = next(generator.parameters()).device
    rng = _own_generator(config, "norm")
    momenta = [norm.momentum for norm in norms]
    generator.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # means a cumulative average in torch
    drawn_from = data_labels.cpu()
    if config.balance_classes:
        drawn_from = drawn_from.unique()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for _ in range(images // BATCH):
            z = torch.randn(BATCH, config.latent_dim, generator=rng)
            labels = draw_labels(drawn_from, BATCH, rng)
            generator(z.to(device), labels.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()


def _own_generator(config: TrainConfig, purpose: str) -> torch.Generator:
    """A separate random source, so that sampling does not change the training run."""
    offset = {"grid": 1, "norm": 2}[purpose]
    return torch.Generator().manual_seed((config.seed + offset) % 2**63)
