"""Trains one GAN per class, one after another, as a single run with one metrics series, checkpoint and model.

Each part is an ordinary unconditional run on the images of one class, independent of the others. Image counts in the
config refer to the whole run; each class gets an equal share, so an epoch stays an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from services.trainer.data.datasets import ImageDataset
from services.trainer.networks.build import build_networks, count_parameters
from services.trainer.networks.per_class_generator import PerClassGenerator
from services.trainer.training import loop
from services.trainer.training.sampling import NORM_IMAGES, sample_grid, standing_statistics
from services.trainer.training.schedules import training_seconds
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig
from shared.errors import BadConfig, BadDataset
from shared.jobs.trainer_messages import StopSignal

SHARED = ("total_nimg", "lr_step_nimg", "ema_halflife_nimg", "tick_nimg", "snapshot_nimg")
MAX_MODEL_BYTES = 1 << 30  # half of what one ONNX file can hold

# Builds a fresh state for a part and seeds torch, so that every part starts as if it were the only one.
BuildState = Callable[[TrainConfig, ImageDataset], TrainState]


@dataclass(frozen=True)
class FinishedPart:
    """The result of one class's training."""

    generator: nn.Module  # averaged weights with standing batch statistics
    nimg: int
    wall_seconds: float
    metrics: list[dict[str, float]]


class PerClassState:
    """The state of the whole run, for messages, checkpoints and export; `part` is the class in training."""

    def __init__(self, config: TrainConfig, dataset: ImageDataset, build: BuildState) -> None:
        """Raises BadConfig if the generators of all classes are too large for one model file."""
        self.config, self.classes, self._dataset, self._build = config, dataset.classes, dataset, build
        self.finished: list[FinishedPart] = []
        self.part = self._start(0)
        check_model_size(self.part.generator, len(self.classes))

    @property
    def number(self) -> int:
        """Index of the class in training."""
        return len(self.finished)

    @property
    def images(self) -> ImageDataset:
        """Images of the class in training."""
        return images_of(self._dataset, self.number)

    @property
    def finished_nimg(self) -> int:
        """Images that the finished classes have seen."""
        return sum(part.nimg for part in self.finished)

    @property
    def cur_nimg(self) -> int:
        return self.finished_nimg + self.part.cur_nimg

    @property
    def wall_seconds(self) -> float:
        return sum(part.wall_seconds for part in self.finished) + self.part.wall_seconds

    @property
    def device(self) -> torch.device:
        return self.part.device

    @property
    def metrics(self) -> list[dict[str, float]]:
        rows, nimg = [], 0
        for number, part in enumerate(self.finished):
            rows += [to_run_row(row, number, nimg) for row in part.metrics]
            nimg += part.nimg
        return rows + [to_run_row(row, self.number, nimg) for row in self.part.metrics]

    @property
    def ema(self) -> PerClassGenerator:
        """The averaged generators of all classes whose training has started."""
        started = [self.part.ema] if self.part.cur_nimg or not self.finished else []
        return PerClassGenerator([*(part.generator for part in self.finished), *started], self.config.image_shape)

    def networks(self) -> dict[str, nn.Module]:
        return {"ema": self.ema}

    def start_next(self) -> None:
        part = self.part
        self.finished.append(FinishedPart(part.ema, part.cur_nimg, part.wall_seconds, part.metrics))
        self.part = self._start(self.number)

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump_json(),
            "cur_nimg": self.cur_nimg,
            "finished": [
                {"generator": part.generator.state_dict(), "nimg": part.nimg, "wall_seconds": part.wall_seconds,
                 "metrics": part.metrics}
                for part in self.finished
            ],
            "part": self.part.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.finished = []
        for part in saved["finished"]:
            generator, _ = build_networks(self.part.config, num_classes=1)
            generator.load_state_dict(part["generator"])
            generator = generator.to(self.device).requires_grad_(False).eval()
            self.finished.append(FinishedPart(generator, part["nimg"], part["wall_seconds"], part["metrics"]))
        self.part = self._start(self.number)
        self.part.load_state_dict(saved["part"])  # includes torch's random state, so it comes last

    def _start(self, number: int) -> TrainState:
        return self._build(config_of_part(self.config, number, len(self.classes)), images_of(self._dataset, number))


def check_model_size(generator: nn.Module, count: int = 1) -> None:
    """Raises BadConfig if an ONNX file cannot hold `count` such generators."""
    size = 4 * count_parameters(generator) * count
    if size > MAX_MODEL_BYTES:
        generators = f"generators for {count} classes take" if count > 1 else "the generator takes"
        raise BadConfig(f"g_channels: {generators} {size:,} bytes; the limit is {MAX_MODEL_BYTES:,}")


def config_of_part(config: TrainConfig, number: int, count: int) -> TrainConfig:
    """The config of class `number` of `count`: its own seed, and an equal share of all images and of the time."""
    parts = {name: value and max(1, value // count) for name in SHARED if (value := getattr(config, name)) is not None}
    minutes = config.max_minutes and config.max_minutes / count
    own = {"per_class": False, "eval_images": 0, "max_minutes": minutes, "seed": (config.seed + number) % 2**63}
    return config.model_copy(update=parts | own)


def images_of(dataset: ImageDataset, number: int) -> ImageDataset:
    """A data set with the images of one class only. Raises BadDataset if there are none."""
    if not (dataset.labels == number).any():
        raise BadDataset(f"per_class: class {dataset.classes[number]!r} has no images")
    return dataset.of_class(number)


def to_run_row(row: dict[str, float], number: int, finished_nimg: int) -> dict[str, float]:
    """A part's metrics row in terms of the whole run: total images seen, and the index of its class."""
    return row | {"nimg": finished_nimg + row["nimg"], "class": number}


def train(
    state: PerClassState,
    dataset: ImageDataset,
    send: Callable[[loop.Message], None],
    should_stop: Callable[[], StopSignal | None],
) -> Literal["leave", "done"]:
    """Trains class after class, each by `loop.train`; a `finish` signal leaves the remaining classes untrained."""
    while True:
        outcome = loop.train(state.part, state.images, partial(_forward, state, dataset, send), should_stop)
        if outcome == "leave":
            return "leave"
        if state.part.cur_nimg:
            standing_statistics(state.part.ema, state.part.config, state.images.labels, NORM_IMAGES)
        if not loop.is_over(state.part) or state.number == len(state.classes) - 1:
            return "done"
        state.start_next()


def _forward(
    state: PerClassState, dataset: ImageDataset, send: Callable[[loop.Message], None], part: loop.Message
) -> None:
    """Sends the messages of one part in terms of the whole run."""
    match part:
        case loop.ProgressMessage():
            send(_progress(state, part))
        case loop.MetricsMessage(row):
            send(loop.MetricsMessage(to_run_row(row, state.number, state.finished_nimg)))
        case loop.SamplesMessage(nimg):
            if nimg or not state.finished:  # the noise of a new class must not replace the last class's grid
                grid = sample_grid(state.ema, state.config, dataset, reestimate=False)
                send(loop.SamplesMessage(state.finished_nimg + nimg, grid))
        case loop.CheckpointMessage():
            # No snapshot: it could hold the generator and discriminator of different classes.
            send(loop.CheckpointMessage(state, is_snapshot=False))


def _progress(state: PerClassState, part: loop.ProgressMessage) -> loop.ProgressMessage:
    count, config = len(state.classes), state.part.config
    class_s = config.total_nimg / part.images_per_second
    if (limit_s := training_seconds(config)) is not None:
        class_s = min(class_s, limit_s)
    return replace(
        part,
        nimg=state.finished_nimg + part.nimg,
        fraction=(state.number + part.fraction) / count,
        eta_seconds=part.eta_seconds + (count - state.number - 1) * class_s,
    )
