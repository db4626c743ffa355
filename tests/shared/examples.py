"""Valid records for tests: jobs, manifests and sweep specs. A test changes the fields that matter to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from shared.configs.presets import PRESETS
from shared.jobs.record import Job, JobStatus, new_job
from shared.storage.model_registry import ModelManifest, Parity
from shared.sweeps.record import SweepSpec

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LEASE_S = 15.0
FENCE = 7


def a_job(now: datetime = NOW) -> Job:
    """A job that was just submitted."""
    return new_job(now, preset="tiny", config=PRESETS["tiny"].config, dataset="cifar10", name=None)


def job_in(status: JobStatus, **changes: Any) -> Job:
    """A job in a status. A running one has a live lease and the fence FENCE."""
    job = a_job().model_copy(update={"status": status, "fence": FENCE, "attempt": FENCE})
    if status is JobStatus.RUNNING:
        lease_until = NOW + timedelta(seconds=LEASE_S)
        job = job.model_copy(update={"worker": "w1", "started_at": NOW, "lease_until": lease_until, "renewed_at": NOW})
    return job.model_copy(update=changes)


def a_model(model_id: str = "tiny-1", created_at: datetime = NOW) -> ModelManifest:
    """A manifest as the trainer sends it: without the digests of its files."""
    config = PRESETS["tiny"].config
    return ModelManifest(
        id=model_id, job_id="1", created_at=created_at, preset="tiny", config=config, dataset="cifar10",
        classes=("cat", "dog"), latent_dim=config.latent_dim, conditional=True,
        parity=Parity(max_abs_difference=1e-6, batch_sizes=(1, 8)),
        images_seen=config.total_nimg, device="cpu", wall_seconds=1.5,
    )  # fmt: skip


def a_spec(**changes: Any) -> SweepSpec:
    """The spec of a sweep over the learning rate of `tiny`, with two trials."""
    lr = {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}
    spec = {
        "preset": "tiny", "dataset": "cifar10", "overrides": {}, "space": {"lr": lr}, "n_trials": 2, "pruning": False,
        "objective": {"metric": "loss_g", "direction": "minimize"}, "seed": 0, "parallelism": None,
    }  # fmt: skip
    return SweepSpec(**spec | changes)
