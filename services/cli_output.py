"""What the commands of `kiln` share: a connection to the API, and how an answer is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from services.client import Kiln

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

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
