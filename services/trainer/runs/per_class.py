"""One GAN for each class, one after another, as one run: one position, one series, one checkpoint, one model.

Each part is an ordinary unconditional run on the images of its class, and knows nothing of the others. Every number of
images in the config is of the whole run, of which each class has an equal share; so an epoch stays an epoch.
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
from shared.configs.presets import TrainConfig
from shared.errors import BadConfig
from shared.jobs.trainer_messages import StopSignal

SHARED = ("total_nimg", "lr_step_nimg", "ema_halflife_nimg", "tick_nimg", "snapshot_nimg")
MAX_MODEL_BYTES = 1 << 30  # an ONNX file holds two

# A fresh state for a part. It seeds torch: every part begins as if there were no other.
MakeState = Callable[[TrainConfig, ImageDataset], TrainState]


@dataclass(frozen=True)
class FinishedPart:
    """What is left of a class's run when the next one begins."""

    generator: nn.Module  # averaged, with batch statistics of its own
    nimg: int
    wall_seconds: float
    metrics: list[dict[str, float]]


class PerClassState:
    """The run as a whole, for everything that reports, saves and exports; `part` is the class in training."""

    def __init__(self, config: TrainConfig, dataset: ImageDataset, make: MakeState) -> None:
        """Raises BadConfig when so many generators are more than a file can hold."""
        self.config, self.classes, self._dataset, self._make = config, dataset.classes, dataset, make
        self.finished: list[FinishedPart] = []
        self.part = self._begin(0)
        size = 4 * count_parameters(self.part.generator) * len(self.classes)
        if size > MAX_MODEL_BYTES:
            raise BadConfig(
                f"a generator for each of {len(self.classes)} classes is {size:,} bytes; "
                f"a model may have {MAX_MODEL_BYTES:,}"
            )

    @property
    def number(self) -> int:
        """Of the class in training."""
        return len(self.finished)

    @property
    def images(self) -> ImageDataset:
        """Those of the class in training."""
        return images_of(self._dataset, self.number)

    @property
    def before(self) -> int:
        """Images that were seen before this class's first."""
        return sum(part.nimg for part in self.finished)

    @property
    def cur_nimg(self) -> int:
        return self.before + self.part.cur_nimg

    @property
    def wall_seconds(self) -> float:
        return sum(part.wall_seconds for part in self.finished) + self.part.wall_seconds

    @property
    def device(self) -> torch.device:
        return self.part.device

    @property
    def metrics(self) -> list[dict[str, float]]:
        rows, before = [], 0
        for number, part in enumerate(self.finished):
            rows += [place(row, number, before) for row in part.metrics]
            before += part.nimg
        return rows + [place(row, self.number, before) for row in self.part.metrics]

    @property
    def ema(self) -> PerClassGenerator:
        """The averaged generators of the classes that were begun."""
        begun = [self.part.ema] if self.part.cur_nimg or not self.finished else []
        return PerClassGenerator([*(part.generator for part in self.finished), *begun])

    def networks(self) -> dict[str, nn.Module]:
        return {"ema": self.ema}

    def begin_next(self) -> None:
        part = self.part
        self.finished.append(FinishedPart(part.ema, part.cur_nimg, part.wall_seconds, part.metrics))
        self.part = self._begin(self.number)

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
        self.part = self._begin(self.number)
        self.part.load_state_dict(saved["part"])  # torch's random state with it, last

    def _begin(self, number: int) -> TrainState:
        return self._make(config_of_part(self.config, number, len(self.classes)), images_of(self._dataset, number))


def config_of_part(config: TrainConfig, number: int, count: int) -> TrainConfig:
    """What class `number` of `count` is trained with: a seed of its own and its share of the images and of the time."""
    shares = {name: value and max(1, value // count) for name in SHARED if (value := getattr(config, name)) is not None}
    minutes = config.max_minutes and config.max_minutes / count
    alone = {"per_class": False, "eval_images": 0, "max_minutes": minutes, "seed": (config.seed + number) % 2**63}
    return config.model_copy(update=shares | alone)


def images_of(dataset: ImageDataset, number: int) -> ImageDataset:
    """The images of one class, which is the only one there."""
    own = dataset.labels == number
    if not own.any():
        raise BadConfig(f"there is no image of class {dataset.classes[number]}")
    return ImageDataset(dataset.images[own], torch.zeros_like(dataset.labels[own]), (dataset.classes[number],))


def place(row: dict[str, float], number: int, before: int) -> dict[str, float]:
    """A part's row of the metrics series as one of the whole run: counted on, and with the number of its class."""
    return row | {"nimg": before + row["nimg"], "class": number}


def train(
    state: PerClassState,
    dataset: ImageDataset,
    report: Callable[[loop.Report], None],
    should_stop: Callable[[], StopSignal | None],
) -> Literal["leave", "done"]:
    """Trains class after class, as training_loop.train does one run; told to finish, it leaves the rest untrained."""
    while True:
        how = loop.train(state.part, state.images, partial(_pass_on, state, dataset, report), should_stop)
        if how == "leave":
            return "leave"
        if state.part.cur_nimg:
            standing_statistics(state.part.ema, state.part.config, 1, NORM_IMAGES)
        if not loop.is_over(state.part) or state.number == len(state.classes) - 1:
            return "done"
        state.begin_next()


def _pass_on(
    state: PerClassState, dataset: ImageDataset, report: Callable[[loop.Report], None], part: loop.Report
) -> None:
    """A part's report as one of the whole run."""
    match part:
        case loop.ProgressReport():
            report(_progress(state, part))
        case loop.MetricsReport(row):
            report(loop.MetricsReport(place(row, state.number, state.before)))
        case loop.SamplesReport(nimg):
            if nimg or not state.finished:  # a new class's noise is not worth the grid of the one before
                grid = sample_grid(state.ema, state.config, dataset, reestimate=False)
                report(loop.SamplesReport(state.before + nimg, grid))
        case loop.CheckpointReport():
            # No snapshot of weights: half of them would be those of another class.
            report(loop.CheckpointReport(state, is_snapshot=False))


def _progress(state: PerClassState, part: loop.ProgressReport) -> loop.ProgressReport:
    count, config = len(state.classes), state.part.config
    class_s = config.total_nimg / part.images_per_second
    if (limit_s := training_seconds(config)) is not None:
        class_s = min(class_s, limit_s)
    return replace(
        part,
        nimg=state.before + part.nimg,
        fraction=(state.number + part.fraction) / count,
        eta_seconds=part.eta_seconds + (count - state.number - 1) * class_s,
    )
