"""Trains a classifier in one visible loop that resumes exactly, and measures its accuracy on test images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from services.trainer.classifier.network import Classifier
from services.trainer.data.augment import crop, cutout, flip, to_unit_range
from services.trainer.data.datasets import ImageDataset
from services.trainer.data.sampler import Sampler
from shared.configs.classifier import ClassifierConfig
from shared.errors import Diverged
from shared.jobs.trainer_messages import StopSignal

EVAL_BATCH = 500


class ClassifierState:
    """Everything that a run carries from step to step: network, average, optimizer, position and random state."""

    def __init__(self, config: ClassifierConfig, num_classes: int, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.network = Classifier(config.width, num_classes).to(device).to(memory_format=torch.channels_last)
        decay = 0.5 ** (config.batch_size / config.ema_halflife_nimg) if config.ema_halflife_nimg else 0.0
        averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        # Batch statistics are averaged together with the weights.
        self.average = AveragedModel(self.network, multi_avg_fn=averaging, use_buffers=True)
        # Parameters with one axis are biases, and scales and shifts of batch norms.
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
            momentum=config.momentum,
            nesterov=True,
        )
        self.cur_nimg = 0
        self.wall_seconds = 0.0  # over all attempts; for information only
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)  # of the tick: loss, correct, images

    @property
    def result(self) -> Classifier:
        """The network to evaluate and export: the averaged one, if the config has averaging."""
        chosen = self.average.module if self.config.ema_halflife_nimg else self.network
        assert isinstance(chosen, Classifier)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that torch can load it with `weights_only=True`."""
        return {
            "config": self.config.model_dump_json(),
            "cur_nimg": self.cur_nimg,
            "wall_seconds": self.wall_seconds,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "rng_cpu": torch.get_rng_state(),
            "rng_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.cur_nimg, self.wall_seconds = saved["cur_nimg"], saved["wall_seconds"]
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
    tick_s, tick_nimg = time.monotonic(), state.cur_nimg
    checkpoint_s = tick_s
    while (stop := should_stop()) is None and state.cur_nimg < total_nimg:
        count = min(config.batch_size, total_nimg - state.cur_nimg)
        chosen = sampler.batch(state.cur_nimg, count)
        position = state.cur_nimg / total_nimg
        lr = config.lr * one_cycle(config, position)
        images = augment(dataset.gather(chosen), config)
        step(state, shrink(images, config, position), dataset.labels[chosen.to(state.device)], lr)
        before, state.cur_nimg = state.cur_nimg, state.cur_nimg + count
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
        group["lr"] = lr
    logits, _ = state.network(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=state.config.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    if state.config.ema_halflife_nimg:
        state.average.update_parameters(state.network)
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).sum()
        state.sums += torch.stack([loss.double() * len(images), correct.double(), correct.new_tensor(len(images))])


def augment(images: Tensor, config: ClassifierConfig) -> Tensor:
    """Flips, crops and cuts out of each image at random. [N, 3, H, W] uint8 -> float32 in [-1, 1]."""
    count, _, height, width = images.shape
    if config.flip:
        images = flip(images, torch.rand(count, device=images.device) < 0.5)
    if config.crop_padding:
        offsets = torch.randint(0, 2 * config.crop_padding + 1, (2, count), device=images.device)
        images = crop(images, offsets[0], offsets[1], config.crop_padding)
    if config.cutout_px:
        middle = torch.stack([torch.randint(0, side, (count,), device=images.device) for side in (height, width)])
        top, left = middle - config.cutout_px // 2
        images = cutout(images, top, left, config.cutout_px)
    return to_unit_range(images)


def shrink(images: Tensor, config: ClassifierConfig, position: float) -> Tensor:
    """Downscales images to `small_px` in the first part of the run, where coarse shapes suffice and steps are cheap.

    Progressive resizing, as in fastai's entry to DAWNBench (2018); the rest of the run is at full size.
    """
    if config.small_px == images.shape[3] or position >= config.small_share:
        return images
    return F.interpolate(images, size=config.small_px, mode="bilinear", antialias=True, align_corners=False)


def one_cycle(config: ClassifierConfig, position: float) -> float:
    """Fraction of the peak learning rate at `position` in [0, 1]: a linear rise, then half a cosine down to zero.

    Smith and Topin 2018, arXiv:1708.07120, without its change of momentum.
    """
    if position < config.warmup:
        return position / config.warmup
    return (1 + math.cos(math.pi * (position - config.warmup) / (1 - config.warmup))) / 2


def class_accuracies(network: nn.Module, dataset: ImageDataset) -> Tensor:
    """Share of the images of each class that the network recognises. -> float64 [classes]; NaN without images."""
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        predictions = [
            network(to_unit_range(images.to(device)))[0].argmax(1) for images, _ in dataset.batches(EVAL_BATCH)
        ]
    is_right = (torch.cat(predictions) == dataset.labels.to(device)).double().cpu()
    labels = dataset.labels.cpu()
    return torch.stack([is_right[labels == label].mean() for label in range(len(dataset.classes))])


def _close_tick(state: ClassifierState) -> dict[str, float]:
    loss, correct, images = state.sums.tolist()
    state.sums.zero_()
    if not math.isfinite(loss):
        raise Diverged(f"loss is {loss} after {state.cur_nimg} images; a lower learning rate usually helps")
    return {"nimg": state.cur_nimg, "loss": loss / images, "accuracy": correct / images}
