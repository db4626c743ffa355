"""What a job has left behind while it trained: sample grids in the artifact store."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.api.state import AppState
from shared.errors import UnknownSample

_GRID = re.compile(r"(\d{12})\.png")


def sample_positions(job_id: str, state: AppState) -> list[int]:
    """Images seen at each sample grid of the job, ascending."""
    names = state.artifacts.list(f"jobs/{job_id}/samples")
    return [int(match[1]) for name in names if (match := _GRID.fullmatch(name))]


def read_sample(job_id: str, nimg: int, state: AppState) -> bytes:
    """The PNG after so many images. Raises UnknownSample."""
    try:
        return state.artifacts.read(f"jobs/{job_id}/samples/{nimg:012d}.png")
    except FileNotFoundError:
        raise UnknownSample(f"{nimg} of job {job_id}") from None


def choose(positions: Sequence[int], count: int, wanted: Sequence[int] | None) -> list[int]:
    """The positions nearest to those that are wanted, none twice; `count` of all where none is."""
    if wanted is None or not positions:
        return spread(positions, count)
    return list(dict.fromkeys(min(positions, key=lambda position: abs(position - nimg)) for nimg in wanted))


def spread(positions: Sequence[int], count: int) -> list[int]:
    """`count` of the positions, the first and the last among them, as evenly as they lie."""
    if count >= len(positions):
        return list(positions)
    if count == 1:
        return [positions[-1]]
    return [positions[round(i * (len(positions) - 1) / (count - 1))] for i in range(count)]


def latest_grid(job_id: str, state: AppState) -> bytes | None:
    positions = sample_positions(job_id, state)
    return read_sample(job_id, positions[-1], state) if positions else None
