"""Several jobs side by side: where their losses began and ended, what they cost and came to, and how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.api.state import AppState
from shared.errors import CorruptArtifact, UnknownModel
from shared.jobs.record import Job
from shared.storage.model_registry import ModelMetrics

IMAGES_PER_EPOCH = {"cifar10": 50_000}
FIGURES = tuple(name for name in ModelMetrics.model_fields if name != "protocol")
IN_EPOCHS = ("loss_d", "loss_g", "d_accuracy_real", "d_accuracy_fake")


@dataclass(frozen=True)
class Run:
    """A job with its metrics series and the figures of its model."""

    job: Job
    label: str
    rows: Sequence[dict[str, float]]
    figures: ModelMetrics
    images_per_epoch: int | None

    def summary(self) -> dict[str, Any]:
        """One row of the table: losses of the first and last epoch, D's accuracies at the end, time, final figures."""
        first, last = self._ends()
        measured = {name: row[name] for row in self.rows for name in FIGURES if name in row}  # the latest of each
        measured |= self.figures.model_dump(include=set(FIGURES), exclude_none=True)
        return {
            "job": self.job.id,
            "name": self.label,
            "preset": self.job.preset,
            "status": str(self.job.status),
            "images_seen": self.job.progress.images_seen,
            "initial_loss_d": first.get("loss_d"),
            "final_loss_d": last.get("loss_d"),
            "initial_loss_g": first.get("loss_g"),
            "final_loss_g": last.get("loss_g"),
            "d_accuracy_real": last.get("d_accuracy_real"),
            "d_accuracy_fake": last.get("d_accuracy_fake"),
            **{name: measured.get(name) for name in FIGURES},
            "seconds": round(self.job.trained_s, 1),
        }

    def _ends(self) -> tuple[dict[str, float], dict[str, float]]:
        """Means over the first and the last epoch; of a run shorter than two epochs, its first and its last row."""
        if not self.rows:
            return {}, {}
        epoch, last = self.images_per_epoch, self.rows[-1]["nimg"]
        if epoch is None or last < 2 * epoch:
            return self.rows[0], self.rows[-1]
        return self._mean(0, epoch), self._mean(last - epoch, last)

    def _mean(self, begin: float, end: float) -> dict[str, float]:
        """Of each column between two positions; each row counts by the images of it that lie there."""
        starts = [0.0, *(row["nimg"] for row in self.rows[:-1])]
        overlaps = [min(end, row["nimg"]) - max(begin, start) for row, start in zip(self.rows, starts, strict=True)]
        inside = [(row, overlap) for row, overlap in zip(self.rows, overlaps, strict=True) if overlap > 0]
        columns = [name for name in IN_EPOCHS if all(name in row for row, _ in inside)]
        return {name: sum(row[name] * overlap for row, overlap in inside) / (end - begin) for name in columns}


def read_runs(job_ids: Sequence[str], state: AppState, images_per_epoch: int | None = None) -> list[Run]:
    """Raises UnknownJob. The length of an epoch is known for CIFAR-10; for other data sets it must be given."""
    jobs = [state.store.get(job_id) for job_id in job_ids]
    names = Counter(job.name for job in jobs)
    return [
        Run(
            job=job,
            label=job.name if job.name and names[job.name] == 1 else f"{job.name or job.preset} {job.id}",
            rows=state.store.metrics(job.id),
            figures=_figures(job, state),
            images_per_epoch=images_per_epoch or IMAGES_PER_EPOCH.get(job.dataset),
        )
        for job in jobs
    ]


def common_epoch(runs: Sequence[Run]) -> int | None:
    """The length of an epoch, where it is the same in all runs."""
    lengths = {run.images_per_epoch for run in runs}
    return lengths.pop() if len(lengths) == 1 else None


def _figures(job: Job, state: AppState) -> ModelMetrics:
    try:
        return state.registry.get(job.model_id).metrics if job.model_id else ModelMetrics()
    except (UnknownModel, CorruptArtifact):
        return ModelMetrics()  # deleted since, or damaged; the job's series is still there


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each job, what in its config, or its data set, is not the same in all of them."""
    settings = [{"dataset": run.job.dataset, **run.job.config.model_dump(mode="json")} for run in runs]
    names = dict.fromkeys(name for one in settings for name in one)  # a classifier's are others than a GAN's
    differing = [name for name in names if any(other.get(name) != settings[0].get(name) for other in settings[1:])]
    return [{name: one.get(name) for name in differing} for one in settings]
