"""What the commands of `kiln` share: a connection to the API, colours, tables, and how an answer is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from kiln.client import Kiln
from shared.jobs.record import JobStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

COLORS: dict[str, str] = {
    JobStatus.QUEUED: "cyan", JobStatus.RUNNING: "blue", JobStatus.PAUSED: "yellow", JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "red", JobStatus.LOST: "red", JobStatus.CANCELLED: "dim",
}  # fmt: skip

out, err = Console(), Console(stderr=True)


@contextmanager
def connected() -> Iterator[Kiln]:
    # A person is waiting: a few seconds for what may pass, then the error.
    with Kiln(max_wait_s=5.0) as kiln:
        yield kiln


def show(as_json: bool, data: Any, render: Callable[[], RenderableType]) -> None:
    if as_json:
        typer.echo(json.dumps(data))
    else:
        out.print(render())


def new_table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table
