"""The connection, the output and the one-line errors of all commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from kiln.client import Kiln

JOB_FAILED, BAD_INPUT, NOT_FOUND, CONFLICT, UNAVAILABLE, UNAUTHORIZED = range(1, 7)  # exit codes
INTERRUPTED = 130  # 128 + SIGINT, as in shells
MAX_WAIT_S = 5.0  # a person waits at the terminal: retry for a few seconds, then show the error
UNWRAPPED = 10_000  # columns, for output that another program reads line by line

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

COLORS = {
    "queued": "cyan", "running": "blue", "paused": "yellow", "succeeded": "green", "failed": "red", "lost": "red",
    "cancelled": "dim", "complete": "green", "pruned": "yellow",
}  # fmt: skip


class CommandFailed(Exception):
    """Ends the command with one line on standard error and this exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        self.code = code
        super().__init__(message)


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else UNWRAPPED
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)  # names are data


out, err = _console(), _console(stderr=True)


@contextmanager
def connected() -> Iterator[Kiln]:
    with Kiln(max_wait_s=MAX_WAIT_S) as kiln:
        yield kiln


def show(as_json: bool, data: Any, render: Callable[[], RenderableType]) -> None:
    """Prints `data` as one line of JSON, or the text of `render()`."""
    if as_json:
        typer.echo(json.dumps(data))
    else:
        out.print(render())


def read_file(path: Path) -> bytes:
    """Raises CommandFailed."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}") from None


def write_file(path: Path, content: bytes) -> None:
    """`-` is standard output. Raises CommandFailed."""
    try:
        if path == Path("-"):
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            path.write_bytes(content)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from None


def new_table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def colored(status: str, text: str | None = None) -> Text:
    """The text in the colour of a status; without colour if this version does not know the status."""
    return Text(text or status, style=COLORS.get(status, ""))


def first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0][:80]


def format_value(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """`1:02:03`; empty when unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
