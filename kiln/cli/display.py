"""How `kiln` shows things to people: tables, a live view of a job, pictures in the terminal. Rich does the drawing."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kiln._requests import JobData, ModelData
from kiln.cli.doctor import Finding
from kiln.cli.output import COLORS, new_table

PICTURE_COLUMNS = 80  # characters, and so pixels, of a picture in the terminal
TILE, SMALL_TILE, GRID_ROWS = 32, 16, 2  # of a sample grid, so many rows of images, each shrunk to half
SPARKS, SPARK_CHARS = "▁▂▃▄▅▆▇█", 40


def jobs(found: Sequence[JobData]) -> RenderableType:
    if not found:
        return Text("no jobs yet; `kiln train` makes one", style="dim")
    table = new_table("id", "preset", "name", "status", "progress", "images/s", "left", "model or error")
    for job in found:
        rate = job.progress.images_per_second
        table.add_row(
            job.id, job.preset, job.name or "", _status(job), f"{job.progress.fraction:.1%}",
            "" if job.is_over or not rate else f"{rate:,.0f}",
            "" if job.is_over else duration(job.progress.eta_seconds), job.model_id or _first_line(job.error),
        )  # fmt: skip
    return table


def job_line(job: JobData) -> RenderableType:
    line = Text.assemble(
        job.id, "  ", _status(job), f"  {job.progress.images_seen:,} of {job.progress.images_total:,} images"
    )
    if job.model_id:
        line.append(f"\nmodel {job.model_id}; `kiln generate cat --model {job.model_id}`")
    if job.error:
        line.append(f"\n{job.reason}: {job.error}", style="red")
    return line


class Watch:
    """A live view: bar, rate, time left, the latest metrics with their curves, and the latest sample grid."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._curves: dict[str, list[float]] = {}
        self._last_nimg = -1.0
        self._grid: RenderableType = Text()
        self._job: JobData | None = None

    @property
    def shows_pictures(self) -> bool:
        """Whether this terminal has the colours for it."""
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
                self._curves.setdefault(name, []).append(value)
        self._live.update(self.picture)

    @property
    def picture(self) -> RenderableType:
        """All that is on the screen."""
        return Group(job_view(self._job, self._curves), self._grid) if self._job else self._grid

    def show_grid(self, png: bytes, caption: str) -> None:
        """The upper left of a sample grid, as much of it as fits."""
        columns = max(1, min(10, self._console.width // SMALL_TILE))
        with Image.open(io.BytesIO(png)) as sheet:
            shown = sheet.convert("RGB").crop((0, 0, columns * TILE, min(sheet.height, GRID_ROWS * TILE)))
        small = shown.resize((columns * SMALL_TILE, shown.height * SMALL_TILE // TILE), Image.Resampling.BOX)
        self._grid = Group(Text(caption, style="dim"), half_blocks(small))
        if self._job is not None:
            self.show(self._job)


def job_view(job: JobData, curves: Mapping[str, Sequence[float]] | None = None) -> RenderableType:
    seen, total = job.progress.images_seen, job.progress.images_total
    head = Text.assemble(job.id, "  ", job.preset, "  ", _status(job), f"  attempt {job.attempt}")
    numbers = f"{seen:,} of {total:,} images ({job.progress.fraction:.1%})"
    if rate := job.progress.images_per_second:
        numbers += f"  {rate:,.0f} images/s  {duration(job.progress.eta_seconds)} left"
    table = Table.grid(padding=(0, 2))
    for name, value in job.metrics.items():
        curve = (curves or {}).get(name, ()) if name != "nimg" else ()
        table.add_row(Text(name, style="dim"), f"{value:.4g}", Text(spark(curve), style="blue"))
    return Group(head, ProgressBar(total=max(total, 1), completed=seen, width=60), Text(numbers), table)


def spark(values: Sequence[float]) -> str:
    """A curve one character high: the latest values between their least and their greatest."""
    latest = list(values)[-SPARK_CHARS:]
    if len(latest) < 2:
        return ""
    low, high = min(latest), max(latest)
    return "".join(
        SPARKS[round((value - low) / (high - low) * (len(SPARKS) - 1)) if high > low else 0] for value in latest
    )


def models(found: Sequence[ModelData]) -> RenderableType:
    if not found:
        return Text("no models yet; `kiln train` makes one", style="dim")
    table = new_table("id", "aliases", "preset", "images seen", "FID", "classes", "served")
    for model in found:
        manifest = model.manifest
        fid = manifest["metrics"].get("fid")
        table.add_row(
            model.id, ", ".join(model.aliases), manifest["preset"], f"{manifest['images_seen']:,}",
            "" if fid is None else f"{fid:.2f}", str(len(manifest["classes"])) if manifest["conditional"] else "none",
            Text(f"no: {model.refused}", style="red") if model.refused else "yes",
        )  # fmt: skip
    return table


def presets(found: Iterable[Mapping[str, Any]]) -> RenderableType:
    table = new_table("preset", "generator", "discriminator", "what it is")
    for preset in found:
        counts = preset["parameters"]
        table.add_row(preset["name"], f"{counts['generator']:,}", f"{counts['discriminator']:,}", preset["summary"])
    return table


def preset(found: Mapping[str, Any]) -> RenderableType:
    table = new_table("field", "value", "where it comes from")
    for name, value in found["config"].items():
        table.add_row(name, str(value), found["sources"].get(name, ""))
    return Group(Text(found["summary"]), table)


def config(resolved: Mapping[str, Any], base: Mapping[str, Any]) -> RenderableType:
    """The resolved config; what differs from the preset stands out."""
    table = new_table("field", "value", "preset")
    for name, value in resolved.items():
        changed = value != base.get(name)
        table.add_row(name, str(value), str(base.get(name)) if changed else "", style="bold yellow" if changed else "")
    return table


def findings(found: Sequence[Finding]) -> RenderableType:
    table = new_table("", "what", "found", "what to do")
    for finding in found:
        mark = Text("ok", style="green") if finding.is_well else Text("!!", style="red")
        table.add_row(mark, finding.what, finding.found, "" if finding.is_well else finding.fix)
    return table


def picture(path: Path, png: bytes) -> RenderableType:
    """The picture itself, two pixels to a character, below its name."""
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    if image.width > PICTURE_COLUMNS:
        image = image.resize((PICTURE_COLUMNS, max(2, image.height * PICTURE_COLUMNS // image.width)))
    return Group(half_blocks(image), Text(str(path)))


def half_blocks(image: Image.Image) -> Text:
    """An RGB image as text, two pixels to a character."""
    pixels = image.load()
    drawn = Text(no_wrap=True)
    for y in range(0, image.height - 1, 2):
        for x in range(image.width):
            upper, lower = (_rgb(pixels[x, row]) for row in (y, y + 1))  # type: ignore[index]
            drawn.append("▀", style=f"{upper} on {lower}")
        drawn.append("\n")
    return drawn


def duration(seconds: float | None) -> str:
    """1:02:03, or nothing when unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _status(job: JobData) -> Text:
    return Text(f"{job.status} ({job.reason})" if job.reason else f"{job.status}", style=COLORS[job.status])


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0][:80]


def _rgb(pixel: Any) -> str:
    return f"rgb({pixel[0]},{pixel[1]},{pixel[2]})"
