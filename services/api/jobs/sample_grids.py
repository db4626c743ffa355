"""Reads the sample grids that a job writes to the artifact store while it trains."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.errors import UnknownSample
from shared.storage.artifacts import ArtifactStore

_GRID = re.compile(r"(\d{12})\.png")


def sample_positions(job_id: str, artifacts: ArtifactStore) -> list[int]:
    """Images seen at each sample grid of the job, ascending."""
    names = artifacts.list(f"jobs/{job_id}/samples")
    return [int(match[1]) for name in names if (match := _GRID.fullmatch(name))]


def read_sample(job_id: str, nimg: int, artifacts: ArtifactStore) -> bytes:
    """The PNG made after `nimg` images. Raises UnknownSample."""
    try:
        return artifacts.read(f"jobs/{job_id}/samples/{nimg:012d}.png")
    except FileNotFoundError:
        raise UnknownSample(f"{nimg} of job {job_id}") from None


def read_samples(job_id: str, count: int, wanted: Sequence[int] | None, artifacts: ArtifactStore) -> list[bytes]:
    """The PNGs that `choose` picks. Raises UnknownSample if the job has none."""
    positions = choose(sample_positions(job_id, artifacts), count, wanted)
    if not positions:
        raise UnknownSample(f"of job {job_id}")
    return [read_sample(job_id, nimg, artifacts) for nimg in positions]


def latest_sample(job_id: str, artifacts: ArtifactStore) -> bytes | None:
    positions = sample_positions(job_id, artifacts)
    return read_sample(job_id, positions[-1], artifacts) if positions else None


def choose(positions: Sequence[int], count: int, wanted: Sequence[int] | None) -> list[int]:
    """The position nearest to each of `wanted`, without repeats; without `wanted`, `count` evenly spread ones."""
    if wanted is None or not positions:
        return spread(positions, count)
    return list(dict.fromkeys(min(positions, key=lambda position: abs(position - nimg)) for nimg in wanted))


def spread(positions: Sequence[int], count: int) -> list[int]:
    """`count` of the positions, evenly spread, the first and the last included."""
    if count >= len(positions):
        return list(positions)
    if count == 1:
        return [positions[-1]]
    return [positions[round(i * (len(positions) - 1) / (count - 1))] for i in range(count)]
