"""Where a run may begin other than at nothing: `<job>`, or `<job>@<images>`, and what that job left to begin with.

A job keeps its two newest checkpoints (everything needed to go on) and the weights of every snapshot (networks only).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shared.configs.train import CLASSIFIER, TrainConfig
from shared.storage.artifacts import ArtifactStore

# What two runs must have in common for the one to take up networks of the other; the sizes follow from these.
DISCRIMINATOR_FIELDS = (
    "architecture", "conditional", "per_class", "d_channels", "d_halvings", "spectral_norm", "batch_norm",
)  # fmt: skip
NETWORK_FIELDS = (*DISCRIMINATOR_FIELDS, "latent_dim", "g_channels")

_CHECKPOINT = re.compile(r"\d{4}-(\d{12})\.ckpt")
_SNAPSHOT = re.compile(r"(\d{12})\.safetensors")


@dataclass(frozen=True)
class StartingPoint:
    """One of the places to begin at."""

    key: str  # in the artifact store
    nimg: int
    is_whole: bool  # a checkpoint; else the weights of a snapshot


def job_of(text: str) -> str:
    return text.partition("@")[0]


def find_starting_points(text: str, artifacts: ArtifactStore) -> list[StartingPoint]:
    """What fits the text, best first: checkpoints before weights, newest first.

    Raises LookupError, which tells what there is instead.
    """
    job_id, _, wanted = text.partition("@")
    found = _checkpoints(job_id, artifacts)
    # Without a position the newest checkpoint is meant. Weights alone are only taken when they are asked for.
    if wanted:
        found += _snapshots(job_id, artifacts)
        fitting = [point for point in found if point.nimg == int(wanted)]
        if not fitting and found:
            there = ", ".join(str(nimg) for nimg in sorted({point.nimg for point in found}))
            raise LookupError(f"job {job_id} has none after {wanted} images; it has some after {there}")
        found = fitting
    if not found:
        raise LookupError(f"there is no checkpoint of a job {job_id}")
    return found


def differences(config: TrainConfig, other: TrainConfig, fields: Iterable[str]) -> list[str]:
    """The fields that differ, each with the value of `other`: `latent_dim=100`."""
    return [f"{name}={getattr(other, name)}" for name in fields if getattr(config, name) != getattr(other, name)]


def is_classifier(text: str) -> bool:
    return text == CLASSIFIER


def _checkpoints(job_id: str, artifacts: ArtifactStore) -> list[StartingPoint]:
    prefix = f"jobs/{job_id}/checkpoints"
    names = artifacts.list(prefix)[::-1]
    return [StartingPoint(f"{prefix}/{n}", int(m[1]), True) for n in names if (m := _CHECKPOINT.fullmatch(n))]


def _snapshots(job_id: str, artifacts: ArtifactStore) -> list[StartingPoint]:
    prefix = f"jobs/{job_id}/weights"
    names = artifacts.list(prefix)[::-1]
    return [StartingPoint(f"{prefix}/{n}", int(m[1]), False) for n in names if (m := _SNAPSHOT.fullmatch(n))]
