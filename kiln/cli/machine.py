"""`kiln up` and `kiln evaluate` start programs from a checkout of Kiln, because this package does not contain them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import typer

from kiln.cli.output import CommandFailed


def up(context: typer.Context) -> None:
    """Start all of Kiln on this machine.

    Runs the API, a worker, Redis and the dashboard from a checkout, until Ctrl-C.
    `kiln up --help` lists the options of `python -m services.dev`.
    """
    _run("up", "services.dev", context.args, needs="celery")


def evaluate(context: typer.Context) -> None:
    """Measure models on this machine.

    Computes FID, KID, precision, recall and others, from a checkout.
    `kiln evaluate --help` lists the options of `python -m services.trainer evaluate`.
    """
    _run("evaluate", "services.trainer", ["evaluate", *context.args], needs="torch")


def find_checkout() -> Path | None:
    """The checkout around the current folder, or else the one that this package was installed from with --editable."""
    folders = (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2])
    return next((folder for folder in folders if (folder / "services" / "dev.py").is_file()), None)


def environment_of(checkout: Path) -> dict[str, str]:
    """Environment variables that let a Python process import `services` and `shared` from the checkout."""
    path = os.pathsep.join(part for part in (str(checkout), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path}


def _run(command: str, module: str, arguments: list[str], *, needs: str) -> None:
    """Runs the module in place of this process. Raises CommandFailed."""
    checkout = find_checkout()
    if checkout is None:
        raise CommandFailed(
            f"`kiln {command}` needs a checkout of Kiln: change into one, or run the containers instead"
        )
    if importlib.util.find_spec(needs) is None:
        raise CommandFailed(f"{sys.executable} lacks {needs}; `make up` in {checkout} installs what the servers need")
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], environment_of(checkout))  # noqa: S606
