"""Trains a classifier in one visible loop that resumes exactly, and measures its accuracy on test images.

The recipe is that of Jordan 2024, arXiv:2404.00498, whose sections the comments name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.trainer.classifier.network import Classifier
from services.trainer.data.augment import flip, to_unit_range
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.diffaugment import translate
from services.trainer.data.sampler import Sampler
from shared.configs.classifier import ClassifierConfig
from shared.errors import Diverged
from shared.jobs.trainer_messages import StopSignal

EVAL_BATCH = 500
WHITENING_IMAGES = 5000
WHITENING_EPOCHS = 3  # after these, the bias of the whitening layer is frozen too (section 3.1)
REFERENCE_BATCH = 1024  # the batch size of `lr`


class ClassifierState:
    """Everything that a run carries from step to step: network, average, optimizer, position and random state."""

    def __init__(self, config: ClassifierConfig, num_classes: int, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.network = Classifier(config.width, num_classes).to(device).to(memory_format=torch.channels_last)
        # Lookahead's slow weights, batch statistics included.
        self.slow = {name: tensor.clone() for name, tensor in self._averaged()}
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        biases = [parameter for parameter in trained if parameter.ndim == 1]
        weights = [parameter for parameter in trained if parameter.ndim > 1]
        # Biases learn `bias_lr_factor` times as fast; weight decay per step stays that of the weights (section 3.2).
        decay = config.weight_decay
        groups = [
            {"params": weights, "scale": 1.0, "weight_decay": decay},
            {"params": biases, "scale": config.bias_lr_factor, "weight_decay": decay / config.bias_lr_factor},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True)
        self.cur_nimg = 0
        self.steps = 0
        self.wall_seconds = 0.0  # over all attempts; for information only
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # of the tick: loss, correct, images

    def _averaged(self) -> list[tuple[str, Tensor]]:
        return [(name, tensor) for name, tensor in self.network.state_dict().items() if tensor.is_floating_point()]

    @torch.no_grad()
    def look_ahead(self, decay: float) -> None:
        """Moves the slow weights towards the network's, and sets the network to them (Zhang et al. 2019)."""
        for name, tensor in self._averaged():
            tensor.copy_(self.slow[name].lerp_(tensor, 1 - decay))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that torch can load it with `weights_only=True`."""
        return {
            "config": self.config.model_dump_json(),
            "cur_nimg": self.cur_nimg,
            "steps": self.steps,
            "wall_seconds": self.wall_seconds,
            "network": self.network.state_dict(),
            "slow": self.slow,
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "rng_cpu": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.slow = {name: tensor.to(self.device) for name, tensor in saved["slow"].items()}
        self.optimizer.load_state_dict(saved["optimizer"])
        self.cur_nimg, self.steps, self.wall_seconds = saved["cur_nimg"], saved["steps"], saved["wall_seconds"]
        self.sums = saved["sums"].to(self.device)
        torch.set_rng_state(saved["rng_cpu"].cpu())
        if saved["rng_device"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["rng_device"].cpu(), self.device)


def train(
    state: ClassifierState,
    dataset: ImageDataset,
    on_tick: Callable[[dict[str, float]], None],
    on_checkpoint: Callable[[], None],
    should_stop: Callable[[], StopSignal | None],
) -> Literal["leave", "done"]:
    """Trains in place until all epochs are over or a stop signal arrives; always ends with a checkpoint.

    `on_tick` receives a row: nimg, loss, accuracy (on the augmented images), lr, images_per_second. Raises Diverged.
    """
    config = state.config
    total_nimg = config.epochs * len(dataset)
    sampler = Sampler(len(dataset), config.seed)
    is_mirrored = torch.rand(len(dataset), generator=torch.Generator().manual_seed(config.seed)) < 0.5
    if state.cur_nimg == 0:
        state.network.whiten(to_unit_range(dataset.gather(sampler.batch(0, min(WHITENING_IMAGES, len(dataset))))))
        state.look_ahead(0.0)
    tick_s, tick_nimg = time.monotonic(), state.cur_nimg
    checkpoint_s = tick_s
    while (stop := should_stop()) is None and state.cur_nimg < total_nimg:
        count = min(config.batch_size, total_nimg - state.cur_nimg)
        chosen = sampler.batch(state.cur_nimg, count)
        # Alternating flip (section 3.6): each image is mirrored in every second epoch, half of them in the first.
        epochs = (state.cur_nimg + torch.arange(count)) // len(dataset)
        mirrored = (is_mirrored[chosen] ^ (epochs % 2 == 1)).to(state.device)
        lr = config.lr * count / REFERENCE_BATCH * triangle(config, state.cur_nimg / total_nimg)
        state.network.freeze_whitening(state.cur_nimg >= WHITENING_EPOCHS * len(dataset))
        step(state, augment(dataset.gather(chosen), mirrored, config), dataset.labels[chosen.to(state.device)], lr)
        before, state.cur_nimg = state.cur_nimg, state.cur_nimg + count
        if state.cur_nimg == total_nimg:
            state.look_ahead(1.0)  # ends with the slow weights
        elif state.steps % config.lookahead_every == 0:
            position = state.cur_nimg / total_nimg
            state.look_ahead(config.lookahead_decay**config.lookahead_every * position**3)
        now_s = time.monotonic()
        if state.cur_nimg == total_nimg or before // config.tick_nimg != state.cur_nimg // config.tick_nimg:
            rate = (state.cur_nimg - tick_nimg) / (now_s - tick_s)
            on_tick(_close_tick(state) | {"lr": lr, "images_per_second": rate})
            tick_s, tick_nimg = now_s, state.cur_nimg
        if now_s - checkpoint_s >= config.checkpoint_every_s:
            on_checkpoint()
            checkpoint_s = time.monotonic()
    on_checkpoint()
    return "leave" if stop == "leave" and state.cur_nimg < total_nimg else "done"


def step(state: ClassifierState, images: Tensor, labels: Tensor, lr: float) -> None:
    """One step of SGD on a batch of images [N, 3, H, W] in [-1, 1] and their labels [N]."""
    state.network.train()
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    with state.autocast():
        logits = state.network(images)[0].float()
    loss = F.cross_entropy(logits, labels, label_smoothing=state.config.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.steps += 1
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).sum()
        state.sums += torch.stack([loss.double() * len(images), correct.double(), correct.new_tensor(len(images))])


def augment(images: Tensor, mirrored: Tensor, config: ClassifierConfig) -> Tensor:
    """Mirrors the images where `mirrored` [N], and moves each at random. [N, 3, H, W] uint8 -> float32 in [-1, 1]."""
    if config.flip:
        images = flip(images, mirrored)
    if config.crop_padding:
        reach = config.crop_padding
        down, right = torch.randint(-reach, reach + 1, (2, len(images)), device=images.device)
        images = translate(images, down, right)
    return to_unit_range(images)


def triangle(config: ClassifierConfig, position: float) -> float:
    """Fraction of the peak learning rate at `position` in [0, 1]: up from `lr_start`, then down to `lr_end`."""
    if position < config.warmup:
        return config.lr_start + (1 - config.lr_start) * position / config.warmup
    return 1 + (config.lr_end - 1) * (position - config.warmup) / (1 - config.warmup)


def multicrop_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, classes]: the mean over an image and its mirror image, each also moved by a pixel (section 3.5).

    The image where it is counts half; up left and down right count a quarter each.
    """

    def both(x: Tensor) -> Tensor:
        logits: Tensor = network(x)[0] + network(x.flip(3))[0]
        return logits / 2

    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    return both(images) / 2 + both(padded[:, :, :-2, :-2]) / 4 + both(padded[:, :, 2:, 2:]) / 4


def class_accuracies(network: nn.Module, dataset: ImageDataset, *, multicrop: bool = False) -> Tensor:
    """Share of the images of each class that the network recognises. -> float64 [classes]; NaN without images."""
    device = next(network.parameters()).device
    network.eval()
    predictions = []
    with torch.no_grad():
        for part, _ in dataset.batches(EVAL_BATCH):
            images = to_unit_range(part.to(device))
            logits = multicrop_logits(network, images) if multicrop else network(images)[0]
            predictions.append(logits.argmax(1))
    is_right = (torch.cat(predictions) == dataset.labels.to(device)).double().cpu()
    labels = dataset.labels.cpu()
    return torch.stack([is_right[labels == label].mean() for label in range(len(dataset.classes))])


def overall_accuracy(accuracies: Tensor, dataset: ImageDataset) -> float:
    """Share of all images that are recognised, from the share of each class [classes]."""
    counts = dataset.labels.cpu().bincount(minlength=len(dataset.classes))
    return (accuracies * counts)[counts > 0].sum().item() / len(dataset)


def _close_tick(state: ClassifierState) -> dict[str, float]:
    loss, correct, images = state.sums.tolist()
    state.sums.zero_()
    if not math.isfinite(loss):
        raise Diverged(f"loss is {loss} after {state.cur_nimg} images; a lower learning rate usually helps")
    return {"nimg": state.cur_nimg, "loss": loss / images, "accuracy": correct / images}
