"""Watches a run for convergence and for mode collapse."""

from __future__ import annotations

from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.collapse import CollapseWatch
from services.trainer.runs.early_stop import EarlyStopping
from services.trainer.training.state import Resumable, TrainState
from shared.jobs.trainer_messages import SendEvent


class TrainingMonitor:
    """Watches one GAN. A run with one GAN per class is not watched, because no single one of them is the model."""

    def __init__(self, state: Resumable, dataset: ImageDataset, send_event: SendEvent) -> None:
        self._dataset = dataset
        self._watches: tuple[EarlyStopping, CollapseWatch] | None = None
        if isinstance(state, TrainState):
            self._watches = EarlyStopping(state, send_event), CollapseWatch(state, send_event)

    @property
    def has_converged(self) -> bool:
        """Whether the run should stop because its metric no longer improves."""
        return self._watches is not None and self._watches[0].has_converged

    def on_metrics(self) -> None:
        """Call it after each row of the metrics series."""
        for watch in self._watches or ():
            watch.on_metrics()

    def on_sample_grid(self, images: Tensor) -> None:
        """Call it with each sample grid [100, 3, H, W]."""
        if self._watches is not None:
            self._watches[1].on_sample_grid(images, self._dataset)
