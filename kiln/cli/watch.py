"""`kiln watch` in a terminal: progress bar, metrics with their curves, and the latest sample grid."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kiln.cli.output import colored, duration, format_value
from kiln.cli.pictures import curve, half_blocks
from kiln.types import JobData

GRID_COLUMNS, GRID_ROWS, SMALL_TILE = 10, 2, 16  # of a sample grid; rows that are shown; pixels of a shown image


class LiveView:
    """A context manager that redraws the job in place, and removes the drawing at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._curves: dict[str, list[float]] = {}
        self._last_nimg = -1.0
        self._grid: RenderableType = Text()
        self._job: JobData | None = None

    @property
    def shows_images(self) -> bool:
        """Whether this terminal has enough colours."""
        return self._console.is_terminal and self._console.color_system in ("256", "truecolor")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, job: JobData) -> None:
        self._job = job
        if job.metrics.get("nimg", -1.0) > self._last_nimg:
            self._last_nimg = job.metrics["nimg"]
            for name, value in job.metrics.items():
                if isinstance(value, int | float):
                    self._curves.setdefault(name, []).append(value)
        self._live.update(self.content)

    def show_grid(self, png: bytes, caption: str) -> None:
        """The upper left part of a sample grid, as much as fits."""
        columns = max(1, min(GRID_COLUMNS, self._console.width // SMALL_TILE))
        with Image.open(io.BytesIO(png)) as grid:
            tile = grid.width // GRID_COLUMNS
            part = grid.convert("RGB").crop((0, 0, columns * tile, min(grid.height, GRID_ROWS * tile)))
        small = part.resize((columns * SMALL_TILE, part.height * SMALL_TILE // tile), Image.Resampling.BOX)
        self._grid = Group(Text(caption, style="dim"), half_blocks(small))
        if self._job is not None:
            self.show(self._job)

    @property
    def content(self) -> RenderableType:
        return Group(_job_view(self._job, self._curves), self._grid) if self._job else self._grid


def _job_view(job: JobData, curves: Mapping[str, Sequence[float]]) -> RenderableType:
    seen, total = job.progress.images_seen, job.progress.images_total
    head = Text.assemble(job.id, "  ", job.preset, "  ", colored(job.status), f"  attempt {job.attempt}")
    line = f"{seen:,} of {total:,} images ({job.progress.fraction:.1%})"
    if rate := job.progress.images_per_second:
        line += f"  {rate:,.0f} images/s  {duration(job.progress.eta_seconds)} left"
    table = Table.grid(padding=(0, 2))
    for name, value in job.metrics.items():
        points = curves.get(name, ()) if name != "nimg" else ()
        table.add_row(Text(name, style="dim"), format_value(value), Text(curve(points), style="blue"))
    return Group(head, ProgressBar(total=max(total, 1), completed=seen, width=60), Text(line), table)
