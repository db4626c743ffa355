"""Compares jobs side by side: first and last losses, time, model metrics, and the config fields that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.configs.train import TrainConfig
from shared.errors import CorruptArtifact, UnknownModel
from shared.jobs.record import Job
from shared.jobs.store import JobStore
from shared.storage.model_registry import ModelMetrics, ModelRegistry

IMAGES_PER_EPOCH = {"cifar10": 50_000}
MODEL_METRICS = tuple(name for name in ModelMetrics.model_fields if name != "protocol")
EPOCH_MEANS = ("loss_d", "loss_g", "d_accuracy_real", "d_accuracy_fake")


@dataclass(frozen=True)
class Run:
    """A job with its metrics series and the metrics of its model."""

    job: Job
    label: str
    rows: Sequence[dict[str, float]]
    model_metrics: ModelMetrics
    images_per_epoch: int | None

    def summary(self) -> dict[str, Any]:
        """One row of the table: losses of the first and last epoch, final accuracies of D, time, model metrics."""
        first, last = self._first_and_last()
        latest = {name: row[name] for row in self.rows for name in MODEL_METRICS if name in row}
        latest |= self.model_metrics.model_dump(include=set(MODEL_METRICS), exclude_none=True)
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
            **{name: latest.get(name) for name in MODEL_METRICS},
            "seconds": round(self.job.trained_s, 1),
        }

    def _first_and_last(self) -> tuple[dict[str, float], dict[str, float]]:
        """Means over the first and the last epoch; the first and last row of a run shorter than two epochs."""
        if not self.rows:
            return {}, {}
        epoch, end = self.images_per_epoch, self.rows[-1]["nimg"]
        if epoch is None or end < 2 * epoch:
            return self.rows[0], self.rows[-1]
        return self._mean(0, epoch), self._mean(end - epoch, end)

    def _mean(self, begin: float, end: float) -> dict[str, float]:
        """The mean of each column between two positions, each row weighted by its images in that interval."""
        starts = [0.0, *(row["nimg"] for row in self.rows[:-1])]
        overlaps = [min(end, row["nimg"]) - max(begin, start) for row, start in zip(self.rows, starts, strict=True)]
        inside = [(row, overlap) for row, overlap in zip(self.rows, overlaps, strict=True) if overlap > 0]
        columns = [name for name in EPOCH_MEANS if all(name in row for row, _ in inside)]
        return {name: sum(row[name] * overlap for row, overlap in inside) / (end - begin) for name in columns}


def read_runs(
    job_ids: Sequence[str], store: JobStore, registry: ModelRegistry, images_per_epoch: int | None = None
) -> list[Run]:
    """Raises UnknownJob. CIFAR-10's epoch is known; for other data sets `images_per_epoch` must be passed."""
    jobs = [store.get(job_id) for job_id in job_ids]
    names = Counter(job.name for job in jobs)
    return [
        Run(
            job=job,
            label=job.name if job.name and names[job.name] == 1 else f"{job.name or job.preset} {job.id}",
            rows=store.metrics(job.id),
            model_metrics=_model_metrics(job, registry),
            images_per_epoch=images_per_epoch or _images_per_epoch(job),
        )
        for job in jobs
    ]


def _images_per_epoch(job: Job) -> int | None:
    """Real images that the discriminator sees in an epoch: batches may be half real and half generated."""
    images = IMAGES_PER_EPOCH.get(job.dataset)
    if images is None or not isinstance(job.config, TrainConfig):
        return images
    return images * job.config.real_batch_size // job.config.batch_size


def common_epoch(runs: Sequence[Run]) -> int | None:
    """The length of an epoch, if it is the same in all runs."""
    lengths = {run.images_per_epoch for run in runs}
    return lengths.pop() if len(lengths) == 1 else None


def _model_metrics(job: Job, registry: ModelRegistry) -> ModelMetrics:
    try:
        return registry.get(job.model_id).metrics if job.model_id else ModelMetrics()
    except (UnknownModel, CorruptArtifact):
        return ModelMetrics()  # the model was deleted or is damaged; the job's metrics series still exists


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each job, its data set and the config fields, as far as they are not the same in all jobs."""
    configs = [{"dataset": run.job.dataset, **run.job.config.model_dump(mode="json")} for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)  # classifiers have other fields than GANs
    differing = [name for name in names if any(other.get(name) != configs[0].get(name) for other in configs[1:])]
    return [{name: config.get(name) for name in differing} for config in configs]
