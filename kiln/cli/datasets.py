"""`kiln datasets`: push a folder of images, and list, show or delete data sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from kiln._uploads import OnProgress
from kiln.cli.completion import complete_dataset
from kiln.cli.output import AsJson, CommandFailed, connected, err, new_table, show
from kiln.types import DatasetData

LISTED_FILES = 20  # of each kind; --json lists all

group = typer.Typer(name="datasets", invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_dataset)]


@group.callback()
def datasets(context: typer.Context, as_json: AsJson = False) -> None:
    """List data sets; push a folder, show or delete one."""
    if context.invoked_subcommand is None:
        list_datasets(as_json)


@group.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List the pushed data sets and the folders of the server."""
    with connected() as kiln:
        rows = kiln.datasets.list()
    show(as_json, [row.model_dump(mode="json") for row in rows], lambda: _table(rows))


@group.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images, a ZIP or a tar.")],
    name: Annotated[str | None, typer.Option(help="Default: the name of the folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send a folder of images to the server and print its report.

    The layouts are train/CLASS/IMAGES with an optional test/CLASS/IMAGES, CLASS/IMAGES, and a folder of images.
    """
    try:
        with connected() as kiln, _progress_bar() as on_progress:
            dataset = kiln.datasets.push(folder, name, on_progress)
    except OSError as error:
        raise CommandFailed(f"cannot read {error.filename or folder}: {error.strerror}") from None
    show(as_json, dataset.model_dump(mode="json"), lambda: _details(dataset))


@group.command("show")
def show_dataset(name: Name, as_json: AsJson = False) -> None:
    """Show classes, counts, sizes, and each file that is not read, with the reason."""
    with connected() as kiln:
        dataset = kiln.datasets.get(name)
    show(as_json, dataset.model_dump(mode="json"), lambda: _details(dataset))


@group.command()
def delete(name: Name, as_json: AsJson = False) -> None:
    """Delete a pushed data set.

    Refused while a job needs it.
    """
    with connected() as kiln:
        kiln.datasets.delete(name)
    show(as_json, {"deleted": name}, lambda: f"deleted {name}")


@contextmanager
def _progress_bar() -> Iterator[OnProgress]:
    """A bar on standard error, if that is a terminal. After the last byte it says what the server does."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("sending")

        def advance(sent: int, total: int) -> None:
            description = "sending" if sent < total else "the server reads the images"
            progress.update(task, completed=sent, total=total, description=description)

        yield advance


def _table(datasets: Sequence[DatasetData]) -> RenderableType:
    table = new_table("name", "source", "classes", "images", "pushed", "display name")
    for dataset in datasets:
        images = Text(dataset.problem, style="red") if dataset.problem else f"{dataset.images:,}"
        pushed = f"{dataset.pushed_at:%Y-%m-%d %H:%M}" if dataset.pushed_at else ""
        table.add_row(dataset.name, dataset.source, str(len(dataset.classes)), images, pushed, dataset.display_name)
    return table


def _details(dataset: DatasetData) -> RenderableType:
    report: dict[str, Any] = dataset.report or {}
    title = dataset.name if dataset.name == dataset.display_name else f"{dataset.name} ({dataset.display_name})"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if dataset.problem:
        return Group(*parts, Text(dataset.problem, style="red"))
    splits = list(dataset.counts)
    table = new_table("class", *splits)
    for label in dataset.classes:
        table.add_row(label, *(f"{dataset.counts[split].get(label, 0):,}" for split in splits))
    parts.append(table)
    if sizes := report.get("resolutions"):
        shown = ", ".join(f"{size} ({count:,})" for size, count in list(sizes.items())[:5])
        noun = "size" if len(sizes) == 1 else "sizes"
        parts.append(Text(f"{len(sizes)} {noun}: {shown}" + (", ..." if len(sizes) > 5 else "")))
    if dataset.digest:
        parts.append(Text(f"digest {dataset.digest}", style="dim"))
    if held_out := report.get("held_out"):
        parts.append(Text(held_out))
    parts += [Text(f"warning: {warning}", style="yellow") for warning in report.get("warnings", ())]
    for kind, style in (("damaged", "red"), ("ignored", "dim")):
        files = report.get(kind, ())
        parts += [Text(f"{kind}: {file['path']}: {file['reason']}", style=style) for file in files[:LISTED_FILES]]
        if len(files) > LISTED_FILES:
            parts.append(Text(f"{kind}: {len(files) - LISTED_FILES:,} more; --json lists all", style=style))
    return Group(*parts)
