"""What a job has left behind while it trained: sample grids in the artifact store."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.api.state import Services
from shared.errors import UnknownSample

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


def latest_grid(job_id: str, kiln: Services) -> bytes | None:
    positions = sample_positions(job_id, kiln)
    return read_sample(job_id, positions[-1], kiln) if positions else None
