"""Builds the initial state of a run, with the fast paths that this machine supports."""

from __future__ import annotations

from dataclasses import replace

from services.trainer.data.datasets import ImageDataset
from services.trainer.distributed.processes import Ranks
from services.trainer.runs.per_class import PerClassState, check_model_size
from services.trainer.training.compiler import check_compiler
from services.trainer.training.runtime import choose_runtime
from services.trainer.training.state import TrainState
from shared.configs.train import TrainConfig
from shared.jobs.trainer_messages import SendEvent
from shared.settings import Settings

CALIBRATION_IMAGES = 2000


def build_state(
    config: TrainConfig, dataset: ImageDataset, settings: Settings, ranks: Ranks, send_event: SendEvent
) -> TrainState | PerClassState:
    """Fresh networks and optimizers: one GAN, or one per class. Raises BadConfig for a model too large for a file."""

    def build(config: TrainConfig, dataset: ImageDataset) -> TrainState:
        return build_train_state(config, dataset, settings, ranks, send_event)

    if config.per_class:
        return PerClassState(config, dataset, build)
    state = build(config, dataset)
    check_model_size(state.generator)
    return state


def build_train_state(
    config: TrainConfig, dataset: ImageDataset, settings: Settings, ranks: Ranks, send_event: SendEvent
) -> TrainState:
    """One GAN, with the fast paths that the settings allow and this machine supports."""
    device = dataset.device
    runtime = choose_runtime(device, settings)
    if ranks.count > 1:
        runtime = replace(runtime, capture=False, compile=False)  # neither is tested with collectives
    num_classes = len(dataset.classes)
    state = TrainState(config, num_classes, device, runtime, ranks)
    if problem := check_compiler(state, num_classes):
        send_event("warning", f"torch.compile does not work on this machine; training continues without it: {problem}")
        state = TrainState(config, num_classes, device, replace(runtime, compile=False), ranks)
    every = max(1, len(dataset) // CALIBRATION_IMAGES)  # a data set lies in the order of its classes
    state.discriminator.calibrate(dataset.images[::every][:CALIBRATION_IMAGES].to(device))
    return state
