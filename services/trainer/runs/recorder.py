"""Turns the training loop's messages into job messages, sample grids and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.evaluation import Evaluator
from services.trainer.metrics.in_training import extend_last_row
from services.trainer.runs.checkpoint import Checkpoints, describe_data, pack_weights
from services.trainer.runs.monitor import TrainingMonitor
from services.trainer.runs.publish import grid_png
from services.trainer.training import loop
from services.trainer.training.state import Resumable
from shared.errors import DISK_FULL
from shared.jobs.trainer_messages import MetricsLine, ProgressLine, SendMessage, event_sender
from shared.storage.artifacts import ArtifactStore


class Recorder:
    """Call it with each message of the loop."""

    def __init__(
        self,
        run_id: str,
        state: Resumable,
        dataset: ImageDataset,
        evaluator: Evaluator | None,
        *,
        artifacts: ArtifactStore,
        checkpoints: Checkpoints,
        send: SendMessage,
    ) -> None:
        self._run_id, self._state, self._evaluator, self._send = run_id, state, evaluator, send
        self._artifacts, self._checkpoints, self._dataset = artifacts, checkpoints, dataset
        self._send_event = event_sender(send)
        self.monitor = TrainingMonitor(state, dataset, self._send_event)

    def __call__(self, message: loop.Message) -> None:
        match message:
            case loop.ProgressMessage():
                fields = asdict(message)
                self._send(ProgressLine(images_seen=fields.pop("nimg"), **fields))
            case loop.MetricsMessage(row):  # the newest of state.metrics
                extend_last_row(self._state, self._evaluator)
                self._send(MetricsLine(row=row))
                self.monitor.on_metrics()
            case loop.SamplesMessage():
                self._save_samples(message)
            case loop.CheckpointMessage(state, is_snapshot):
                self._save_checkpoint(state, is_snapshot)

    def _save_samples(self, message: loop.SamplesMessage) -> None:
        self.monitor.on_sample_grid(message.images)
        nimg, key = message.nimg, f"jobs/{self._run_id}/samples/{message.nimg:012d}.png"
        with self._tolerate_full_disk("sample grid", nimg):
            self._artifacts.write(key, grid_png(message.images))
            self._send_event("sample", f"sample grid after {nimg:,} images", nimg=nimg, key=key)

    def _save_checkpoint(self, state: Resumable, is_snapshot: bool) -> None:
        nimg = state.cur_nimg
        with self._tolerate_full_disk("checkpoint", nimg):
            self._checkpoints.save(nimg, state.state_dict() | {"data": describe_data(self._dataset)})
            if is_snapshot:
                key = f"jobs/{self._run_id}/weights/{nimg:012d}.safetensors"
                self._artifacts.write(key, pack_weights(state, self._dataset))
            self._send_event("checkpoint", f"checkpoint after {nimg:,} images", nimg=nimg)

    @contextmanager
    def _tolerate_full_disk(self, name: str, nimg: int) -> Iterator[None]:
        """Warns and continues training: the previous checkpoint stays, and the next write may succeed."""
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            message = f"the {name} after {nimg:,} images could not be written: {error.strerror}"
            self._send_event("warning", message, nimg=nimg)
