"""The command `kiln`: a client of the REST API for people and for scripts.

Exit codes: 0 done; 1 the job failed, was lost or was cancelled; 2 bad input; 3 not found; 4 not in this state;
5 the API is unavailable; 6 the API key is missing or lacks a scope; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import httpx2
import typer

import kiln
from kiln.cli import datasets, doctor, images, jobs, machine, models, sweeps, train
from kiln.cli.output import (
    BAD_INPUT,
    CONFLICT,
    JOB_FAILED,
    NOT_FOUND,
    UNAUTHORIZED,
    UNAVAILABLE,
    CommandFailed,
    err,
)
from kiln.errors import ApiError, Conflict, InvalidInput, InvalidSetting, NotFound, Unauthorized, Unavailable

EXIT_CODES: dict[type[ApiError], int] = {
    InvalidInput: BAD_INPUT, NotFound: NOT_FOUND, Conflict: CONFLICT, Unavailable: UNAVAILABLE,
    Unauthorized: UNAUTHORIZED,
}  # fmt: skip

# The order of the panels and of the commands in them, as `kiln --help` shows them.
PANELS: dict[str, tuple[Callable[..., Any] | typer.Typer, ...]] = {
    "Train": (
        machine.up, train.train, train.presets, jobs.watch, jobs.pause, jobs.resume, jobs.finish, jobs.cancel,
        jobs.group, datasets.group,
    ),
    "Generate": (images.generate, images.interpolate, images.verify),
    "Models": (models.promote, models.group),
    "Sweeps": (sweeps.sweep, sweeps.sweeps, sweeps.compare),
    "This machine": (doctor.doctor, machine.evaluate),
}  # fmt: skip

# The program that the command starts receives every argument, also --help.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    name="kiln", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)  # fmt: skip


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"kiln {kiln.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train class-conditional GANs as durable jobs, and serve their images."""


for panel, commands in PANELS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            settings = PASS_ON if command in (machine.up, machine.evaluate) else None
            app.command(rich_help_panel=panel, context_settings=settings)(command)


def main() -> None:
    """Runs the command line. Every expected error is one line on standard error and an exit code."""
    try:
        app(prog_name="kiln")
    except (CommandFailed, InvalidSetting) as error:
        _fail(str(error), getattr(error, "code", BAD_INPUT))
    except ApiError as error:
        _fail(_message(error), next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), JOB_FAILED))
    except httpx2.TransportError as error:
        url = error.request.url.copy_with(raw_path=b"/") if error._request else "the API"
        _fail(f"no response from {url} ({error}); start the API with `kiln up`, or set KILN_URL", UNAVAILABLE)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout at exit, which would fail again
        if isinstance(error, BrokenPipeError):  # `kiln jobs | head`
            sys.exit(JOB_FAILED)
        _fail(f"cannot write {error.filename or 'standard output'}: {error.strerror}", JOB_FAILED)


def _message(error: ApiError) -> str:
    text = error.detail or error.title or f"the API answered with status {error.status}"
    return f"{text}; set KILN_API_KEY" if error.status == httpx2.codes.UNAUTHORIZED else text


def _fail(message: str, code: int) -> None:
    err.print(f"kiln: {' '.join(message.split())}", style="red", soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
