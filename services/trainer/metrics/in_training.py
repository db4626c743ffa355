"""Measuring a model while it is trained, and when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.evaluation import Evaluator, open_evaluator
from services.trainer.metrics.extractor import Hear, find_extractor
from services.trainer.training.sampling import NORM_IMAGES, standing_statistics
from services.trainer.training.state import Resumable
from shared.errors import KilnError
from shared.settings import Settings
from shared.storage.model_registry import ModelMetrics

HEARTBEAT_S = 60.0

Tell = Callable[[str, str], None]  # (kind of event, message)


def open_evaluation(
    state: Resumable, settings: Settings, dataset_name: str, dataset: ImageDataset, tell: Tell
) -> Evaluator | None:
    """What the config's evaluations are made with. None if it wants none, or if it cannot be had, which is told.

    A run does not fail for want of a classifier: its model is as good without figures.
    """
    if not state.config.eval_images:
        return None
    tell("evaluation", f"features of the real images, kept in {settings.data / 'cache'} for the next time")
    try:
        extractor = find_extractor("classifier", None, settings, state.device)
        return open_evaluator(extractor, settings, dataset_name, dataset, now_and_then(tell))
    except KilnError as error:
        tell("evaluation", f"the model will have no figures: {error}")
        return None


def now_and_then(tell: Tell) -> Hear:
    """Tells of the images measured about once a minute: one that is silent for long is taken for dead."""
    told_s = time.monotonic()

    def hear(count: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= HEARTBEAT_S:
            told_s = time.monotonic()
            tell("evaluation", f"{count:,} images measured")

    return hear


def is_due(state: Resumable) -> bool:
    """Whether a multiple of `eval_every_nimg` lies between the last two rows of the metrics series."""
    every = state.config.eval_every_nimg
    before = state.metrics[-2]["nimg"] if len(state.metrics) > 1 else 0
    return every is not None and before // every != state.metrics[-1]["nimg"] // every


def extend_last_row(state: Resumable, evaluator: Evaluator | None) -> None:
    """Adds the figures of `Evaluator.quick` to the newest row of the series, if they are due.

    The row is part of the state, so that they are in its checkpoints. The training itself is not touched.
    """
    if evaluator is None or not is_due(state):
        return
    standing_statistics(state.ema, state.config, len(evaluator.dataset.classes), NORM_IMAGES)
    state.metrics[-1] |= evaluator.quick(state.ema, state.config, state.config.eval_images)


def final_metrics(state: Resumable, evaluator: Evaluator | None) -> ModelMetrics:
    """All figures of the averaged generator as it is; null where there is no evaluator."""
    if evaluator is None:
        return ModelMetrics()
    return evaluator.evaluate(state.ema, state.config, state.config.eval_images)
