"""GAN training as PyTorch tutorials write it: the baseline of Kiln's training speed.

The networks and the losses are Kiln's. The rest follows the usual examples: a DataLoader with workers, torchvision
transforms on one PIL image at a time, eager fp32, torch's default memory layout, Adam with torch's default options.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from services.trainer.networks.build import build_networks
from services.trainer.training.losses import LOSSES
from shared.configs.train import TrainConfig


class PilImages(Dataset[tuple[Tensor, int]]):
    """A data set of PIL images, which are transformed one at a time."""

    def __init__(self, images: Tensor, labels: Tensor, config: TrainConfig) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = labels.tolist()
        steps: list[Any] = [transforms.RandomHorizontalFlip()] if config.flip else []
        steps += [transforms.RandomRotation(config.rotation_degrees)] if config.rotation_degrees else []
        steps += [transforms.RandomCrop(32, padding=config.crop_padding)] if config.crop_padding else []
        steps += [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class PlainTraining:
    """`iterate()` takes n_critic discriminator steps and one generator step."""

    def __init__(self, config: TrainConfig, images: Tensor, labels: Tensor, device: torch.device, workers: int) -> None:
        self.config, self.device, self.loss = config, device, LOSSES[config.loss]
        self.num_classes = int(labels.max()) + 1
        generator, discriminator = build_networks(config, self.num_classes)
        self.use_networks(generator.to(device), discriminator.to(device))
        self.batches = self._repeat(
            DataLoader(
                PilImages(images, labels, config), batch_size=config.real_batch_size, shuffle=True, num_workers=workers,
                drop_last=True, persistent_workers=workers > 0, pin_memory=device.type == "cuda",
            )
        )  # fmt: skip

    def use_networks(self, generator: nn.Module, discriminator: nn.Module) -> None:
        config = self.config
        betas = (config.adam_beta1, config.adam_beta2)
        self.generator, self.discriminator = generator, discriminator
        self.opt_g = torch.optim.Adam(generator.parameters(), lr=config.lr, betas=betas)
        self.opt_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr_d or config.lr, betas=betas)

    def _repeat(self, loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for real, labels in loader:
                yield real.to(self.device), labels.to(self.device)

    def iterate(self) -> None:
        for _ in range(self.config.n_critic):
            self._discriminator_step(*next(self.batches))
        self._generator_step()

    def _discriminator_step(self, real: Tensor, labels: Tensor) -> None:
        z = torch.randn(len(real), self.config.latent_dim, device=self.device)
        fake = self.generator(z, labels).detach()
        loss = self.loss.discriminator(self.discriminator(real, labels), self.discriminator(fake, labels)).mean()
        if self.config.gp_weight:
            loss = loss + self.config.gp_weight * self._penalty(real, fake, labels)
        self.opt_d.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.opt_d.step()

    def _penalty(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        mix = torch.rand(len(real), 1, 1, 1, device=self.device)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        scores = self.discriminator(between, labels)
        ones = torch.ones_like(scores)
        gradient = torch.autograd.grad(scores, between, ones, create_graph=True, retain_graph=True)[0]
        penalty: Tensor = ((gradient.view(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()
        return penalty

    def _generator_step(self) -> None:
        z = torch.randn(self.config.batch_size, self.config.latent_dim, device=self.device)
        labels = torch.randint(self.num_classes, (self.config.batch_size,), device=self.device)
        loss = self.loss.generator(self.discriminator(self.generator(z, labels), labels)).mean()
        self.opt_g.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.opt_g.step()
