"""What a job has left behind while it trained: sample grids in the artifact store, and how to compare several jobs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.api.dependencies import Services
from shared.errors import UnknownSample
from shared.jobs import Job

_GRID = re.compile(r"(\d{12})\.png")


def sample_positions(job_id: str, kiln: Services) -> list[int]:
    """Images seen at each sample grid of the job, ascending."""
    names = kiln.artifacts.list(f"jobs/{job_id}/samples")
    return [int(match[1]) for name in names if (match := _GRID.fullmatch(name))]


def read_sample(job_id: str, nimg: int, kiln: Services) -> bytes:
    """The PNG after so many images. Raises UnknownSample."""
    try:
        return kiln.artifacts.read(f"jobs/{job_id}/samples/{nimg:012d}.png")
    except FileNotFoundError:
        raise UnknownSample(f"{nimg} of job {job_id}") from None


def spread(positions: Sequence[int], count: int) -> list[int]:
    """`count` of the positions, the first and the last among them, as evenly as they lie."""
    if count >= len(positions):
        return list(positions)
    if count == 1:
        return [positions[-1]]
    return [positions[round(i * (len(positions) - 1) / (count - 1))] for i in range(count)]


@dataclass(frozen=True)
class Run:
    """A job with its metrics series."""

    job: Job
    rows: Sequence[dict[str, float]]

    @property
    def label(self) -> str:
        return self.job.name or f"{self.job.preset} {self.job.id}"

    def summary(self) -> dict[str, Any]:
        """One row of the table: first and last losses, accuracies of D on real and fake samples, time."""
        first, last = (self.rows[0], self.rows[-1]) if self.rows else ({}, {})
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
            "fid": last.get("fid"),
            "inception_score": last.get("inception_score"),
            "seconds": round(self.job.trained_s, 1),
        }


def read_runs(job_ids: Sequence[str], kiln: Services) -> list[Run]:
    """Raises UnknownJob."""
    return [Run(kiln.store.get(job_id), kiln.store.metrics(job_id)) for job_id in job_ids]


def latest_grid(job_id: str, kiln: Services) -> bytes | None:
    positions = sample_positions(job_id, kiln)
    return read_sample(job_id, positions[-1], kiln) if positions else None
