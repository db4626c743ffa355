"""One training run: loads the data set, trains with checkpoints, then exports the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from services.trainer.data.progress import loading_progress
from services.trainer.distributed.devices import reserved_gpus
from services.trainer.distributed.processes import Ranks, started
from services.trainer.metrics.in_training import open_evaluation
from services.trainer.runs import per_class
from services.trainer.runs.checkpoint import Checkpoints, pack, restore
from services.trainer.runs.data import announce, config_for, load_images
from services.trainer.runs.device import device_name, pick_device
from services.trainer.runs.early_stop import restore_best
from services.trainer.runs.fresh_state import build_state
from services.trainer.runs.per_class import PerClassState
from services.trainer.runs.publish import export_model, rehearse_export
from services.trainer.runs.rank import describe_run
from services.trainer.runs.recorder import Recorder
from services.trainer.runs.spec import RunSpec
from services.trainer.runs.starting_points import apply_starting_point
from services.trainer.training import loop
from services.trainer.training.profiling import profiled
from services.trainer.training.state import TrainState
from shared.jobs.trainer_messages import MetricsLine, SendMessage, StopSignal, event_sender
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore

ShouldStop = Callable[[], StopSignal | None]


def run(
    spec: RunSpec, settings: Settings, send: SendMessage, should_stop: ShouldStop, profile: Path | None = None
) -> bool:
    """Trains, resuming from the last checkpoint if there is one, and exports. `profile`: file for a trace.

    Returns False if a stop signal ended the run before its budget. Raises TrainingFailed, MemoryError, OSError.
    """
    # Several devices: this process has the first and starts one process per further device; see rank.py.
    with reserved_gpus(spec.config.gpus, settings) as gpus:
        if gpus.is_shared:
            event_sender(send)("warning", "another trainer uses a GPU of this run: both are slower")
        description = describe_run(spec.config, spec.dataset, settings, gpus.devices)
        with started(spec.config.gpus, description) as ranks, profiled(should_stop, profile) as stop:
            device = pick_device(settings, ranks, gpus.devices)
            return _run(spec, settings, send, stop, ranks=ranks, device=device)


def _run(
    spec: RunSpec,
    settings: Settings,
    send: SendMessage,
    should_stop: ShouldStop,
    *,
    ranks: Ranks,
    device: torch.device,
) -> bool:
    send_event = event_sender(send)
    send_event("loading", f"loading data set {spec.dataset}; CIFAR-10 is downloaded if absent")
    dataset = load_images(spec.config, spec.dataset, settings, device, loading_progress(send_event))
    spec = replace(spec, config=config_for(dataset, spec.config))
    state = build_state(spec.config, dataset, settings, ranks, send_event)
    place = device_name(device) if ranks.count == 1 else f"{ranks.count} x {device_name(device)}"
    announce(dataset, spec.config, place, send_event)

    artifacts = ArtifactStore(settings.artifact_url)
    checkpoints = Checkpoints(artifacts, spec.run_id, spec.attempt)
    is_resumed = restore(state, checkpoints, dataset, send)
    if not is_resumed and isinstance(state, TrainState):
        apply_starting_point(state, dataset.classes, artifacts, settings.starter, send_event)
        for row in state.metrics:  # rows of the run that wrote the checkpoint
            send(MetricsLine(row=row))
    if isinstance(state, TrainState) and ranks.count > 1:
        ranks.broadcast_bytes(pack(state.state_dict()))
    evaluator = open_evaluation(state, settings, spec.dataset, dataset, send_event)
    if not is_resumed:
        rehearse_export(spec, state, dataset, settings, evaluator)
    recorder = Recorder(spec.run_id, state, dataset, evaluator, artifacts=artifacts, checkpoints=checkpoints, send=send)

    def stop() -> StopSignal | None:
        return should_stop() or ("finish" if recorder.monitor.has_converged else None)

    if isinstance(state, PerClassState):
        outcome = per_class.train(state, dataset, recorder, stop)
    else:
        outcome = loop.train(state, dataset, recorder, stop)
    if outcome == "leave":
        return False
    send_event("exporting", "training is done; exporting to ONNX")
    images_seen = restore_best(state, send_event) if isinstance(state, TrainState) else state.cur_nimg
    send(export_model(spec, state, dataset, settings, evaluator, images_seen=images_seen))
    return True
