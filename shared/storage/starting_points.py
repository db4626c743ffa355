"""Finds the checkpoints and weights of earlier jobs that a new run can start from.

A job keeps its two newest checkpoints (networks, optimizers, position), and the networks' weights of every snapshot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import CorruptArtifact, UnknownModel
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry

STARTER = "starter"  # the value of warm_start_from that names the model that ships with Kiln
# Files beside the starter's graph: the weights of a snapshot, or a checkpoint.
_STARTER_FILES = {"checkpoint.safetensors": False, "checkpoint.ckpt": True}

_CHECKPOINT = re.compile(r"\d{4}-(\d{12})\.ckpt")
_SNAPSHOT = re.compile(r"(\d{12})\.safetensors")


@dataclass(frozen=True)
class StartingPoint:
    """A checkpoint or a snapshot's weights in the artifact store."""

    key: str  # in the artifact store
    nimg: int
    is_whole: bool  # a checkpoint; otherwise the weights of a snapshot


def find_starting_points(reference: str, artifacts: ArtifactStore) -> list[StartingPoint]:
    """All that `<job>` or `<job>@<images>` can mean, best first: checkpoints before weights, newest first.

    `<job>` means its newest checkpoint; weights are used only for an exact `<job>@<images>`. Raises LookupError, which
    lists the positions that exist.
    """
    job_id, _, nimg = reference.partition("@")
    points = _points(f"jobs/{job_id}/checkpoints", _CHECKPOINT, artifacts, is_whole=True)
    if nimg:
        points += _points(f"jobs/{job_id}/weights", _SNAPSHOT, artifacts, is_whole=False)
        positions = ", ".join(str(position) for position in sorted({point.nimg for point in points}))
        points = [point for point in points if point.nimg == int(nimg)]
        if not points and positions:
            raise LookupError(f"job {job_id} has no checkpoint at {nimg} images; it has some at {positions}")
    if not points:
        raise LookupError(f"job {job_id} has no checkpoint")
    return points


def find_warm_start(
    reference: str, artifacts: ArtifactStore, starter: Path
) -> tuple[ArtifactStore, list[StartingPoint]]:
    """The store and the files that `starter`, a model's id, `<job>` or `<job>@<images>` can mean, best first.

    `starter` is the folder of the starter model. Raises LookupError.
    """
    if reference == STARTER:
        points = [
            StartingPoint(name, 0, is_whole) for name, is_whole in _STARTER_FILES.items() if (starter / name).is_file()
        ]
        if not points:
            names = " or ".join(_STARTER_FILES)
            raise LookupError(f"the starter model in {starter} has no {names}, so no run can start from it")
        return ArtifactStore(starter.absolute().as_uri()), points
    return artifacts, find_starting_points(job_of_model(reference, artifacts), artifacts)


def job_of_model(reference: str, artifacts: ArtifactStore) -> str:
    """The job that trained the model of this id; a reference that names no model as it is."""
    try:
        return ModelRegistry(artifacts).get(reference).job_id
    except (UnknownModel, CorruptArtifact):
        return reference


def _points(prefix: str, pattern: re.Pattern[str], artifacts: ArtifactStore, *, is_whole: bool) -> list[StartingPoint]:
    names = artifacts.list(prefix)[::-1]
    return [StartingPoint(f"{prefix}/{n}", int(m[1]), is_whole) for n in names if (m := pattern.fullmatch(n))]
