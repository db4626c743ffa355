"""What is looked at beside the training: whether it has converged, and whether the generator has collapsed."""

from __future__ import annotations

from torch import Tensor

from services.trainer.data.datasets import ImageDataset
from services.trainer.metrics.collapse import CollapseWatch
from services.trainer.runs.early_stop import Convergence, Tell
from services.trainer.training.state import Resumable, TrainState


class TrainingMonitor:
    """Of one run. One that is made of several has none: no part of it is the model."""

    def __init__(self, state: Resumable, dataset: ImageDataset, tell: Tell) -> None:
        self._dataset = dataset
        self._watches: tuple[Convergence, CollapseWatch] | None = None
        if isinstance(state, TrainState):
            self._watches = Convergence(state, tell), CollapseWatch(state, tell)

    @property
    def is_done(self) -> bool:
        """Whether the run is to stop because it has converged."""
        return self._watches is not None and self._watches[0].is_reached

    def on_metrics(self) -> None:
        """Call it after each row of the metrics series."""
        if self._watches is not None:
            convergence, collapse = self._watches
            convergence.look()
            collapse.on_metrics()

    def look_at_grid(self, images: Tensor) -> None:
        """Call it with each sample grid [100, 3, H, W]."""
        if self._watches is not None:
            self._watches[1].look_at_grid(images, self._dataset)
