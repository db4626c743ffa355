"""Evaluates a model during training and at its end."""

from __future__ import annotations

from typing import get_args

from services.trainer.data.datasets import ImageDataset
from services.trainer.data.progress import at_most_every, loading_progress
from services.trainer.metrics.evaluation import Evaluator, open_evaluator
from services.trainer.metrics.extractor import find_extractor
from services.trainer.training.sampling import NORM_IMAGES, standing_statistics
from services.trainer.training.state import Resumable
from shared.configs.train import EarlyStop, TrainConfig
from shared.errors import BadConfig, BadDataset, EnvironmentFailed, KilnError
from shared.jobs.trainer_messages import SendEvent
from shared.settings import Settings
from shared.storage.model_registry import ModelMetrics

HEARTBEAT_S = 60.0  # the supervisor kills a trainer that sends nothing for long
STOP_METRICS = get_args(EarlyStop.model_fields["metric"].annotation)


def open_evaluation(
    state: Resumable, settings: Settings, dataset_name: str, dataset: ImageDataset, send_event: SendEvent
) -> Evaluator | None:
    """The evaluator of a run; None if the config has no evaluation, or if there is no usable classifier.

    A missing classifier is an event and not an error, because only `early_stop` depends on it: raises BadConfig or
    EnvironmentFailed if its metric cannot be measured.
    """
    if not state.config.eval_images:
        return None
    send_event("evaluation", f"computing features of the real images; they are cached in {settings.data / 'cache'}")
    try:
        extractors = [find_extractor("classifier", None, settings, state.device)]
        try:
            extractors.append(find_extractor("imagenet", None, settings, state.device))
        except BadConfig as error:
            send_event("warning", f"the model will have no figures of the second judge: {error}")
        on_batch = at_most_every(HEARTBEAT_S, lambda count: send_event("evaluation", f"{count:,} images measured"))
        on_progress = loading_progress(send_event)
        evaluator = open_evaluator(
            extractors, settings, dataset_name, dataset, on_progress=on_progress, on_batch=on_batch
        )
    except KilnError as error:
        if rule := state.config.early_stop:
            problem = f"early_stop: {rule.metric} cannot be measured: {error}"
            raise BadDataset(problem) if isinstance(error, BadDataset) else EnvironmentFailed(problem) from error
        send_event("evaluation", f"the model will have no metrics: {error}")
        return None
    _check_early_stop(state.config, evaluator)
    return evaluator


def _check_early_stop(config: TrainConfig, evaluator: Evaluator) -> None:
    """Raises BadConfig if the metric of `early_stop` will never be measured, so that the run could not stop early."""
    rule, metrics = config.early_stop, sorted(evaluator.quick_metrics(config))
    if rule is None:
        return
    if rule.metric not in metrics:
        raise BadConfig(
            f"early_stop: {rule.metric} cannot be measured, because the classifier was trained on other classes than "
            f"this data set's {', '.join(evaluator.dataset.classes)}. Train a classifier on this data set, or choose "
            f"one of {', '.join(name for name in metrics if name in STOP_METRICS)}"
        )
    if config.eval_every_nimg is not None and config.eval_every_nimg > config.total_nimg:
        raise BadConfig(
            f"early_stop: {rule.metric} would never be measured: eval_every_nimg={config.eval_every_nimg} is more than "
            f"total_nimg={config.total_nimg}"
        )


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
    standing_statistics(state.ema, state.config, evaluator.dataset.labels, NORM_IMAGES)
    state.metrics[-1] |= evaluator.quick(state.ema, state.config, state.config.eval_images)


def final_metrics(state: Resumable, evaluator: Evaluator | None) -> ModelMetrics:
    """All metrics of the averaged generator; None without an evaluator."""
    if evaluator is None:
        return ModelMetrics()
    return evaluator.evaluate(state.ema, state.config, state.config.eval_images)
