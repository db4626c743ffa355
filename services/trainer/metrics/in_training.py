"""Evaluates a model during training and at its end."""

from __future__ import annotations

import time

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.evaluation import Evaluator, open_evaluator
from services.trainer.metrics.extractor import OnBatch, find_extractor
from services.trainer.training.sampling import NORM_IMAGES, standing_statistics
from services.trainer.training.state import Resumable
from shared.errors import KilnError
from shared.jobs.trainer_messages import SendEvent
from shared.settings import Settings
from shared.storage.model_registry import ModelMetrics

HEARTBEAT_S = 60.0


def open_evaluation(
    state: Resumable, settings: Settings, dataset_name: str, dataset: ImageDataset, send_event: SendEvent
) -> Evaluator | None:
    """The evaluator of a run; None if the config has no evaluation, or if there is no usable classifier.

    A missing classifier is an event and not an error: the model itself does not need it.
    """
    if not state.config.eval_images:
        return None
    send_event("evaluation", f"computing features of the real images; they are cached in {settings.data / 'cache'}")
    try:
        extractor = find_extractor("classifier", None, settings, state.device)
        return open_evaluator(extractor, settings, dataset_name, dataset, once_a_minute(send_event))
    except KilnError as error:
        send_event("evaluation", f"the model will have no metrics: {error}")
        return None


def once_a_minute(send_event: SendEvent) -> OnBatch:
    """Sends an event about once a minute, because the supervisor kills a trainer that sends nothing for long."""
    last_s = time.monotonic()

    def on_batch(count: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= HEARTBEAT_S:
            last_s = time.monotonic()
            send_event("evaluation", f"{count:,} images measured")

    return on_batch


def is_due(state: Resumable) -> bool:
    """Whether a multiple of `eval_every_nimg` lies between the last two rows of the metrics series."""
    every = state.config.eval_every_nimg
    before = state.metrics[-2]["nimg"] if len(state.metrics) > 1 else 0
    return every is not None and before // every != state.metrics[-1]["nimg"] // every


def extend_last_row(state: Resumable, evaluator: Evaluator | None) -> None:
    """Adds the metrics of `Evaluator.quick` to the newest row of the series, if they are due.

    The row is part of the state, and so of its checkpoints. Training itself is not affected.
    """
    if evaluator is None or not is_due(state):
        return
    standing_statistics(state.ema, state.config, len(evaluator.dataset.classes), NORM_IMAGES)
    state.metrics[-1] |= evaluator.quick(state.ema, state.config, state.config.eval_images)


def final_metrics(state: Resumable, evaluator: Evaluator | None) -> ModelMetrics:
    """All metrics of the averaged generator; None without an evaluator."""
    if evaluator is None:
        return ModelMetrics()
    return evaluator.evaluate(state.ema, state.config, state.config.eval_images)
