"""`kiln jobs`, `kiln watch` and the actions on jobs: cancel, pause, resume, finish, delete."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from kiln.cli.completion import complete_job, complete_status
from kiln.cli.output import (
    INTERRUPTED,
    JOB_FAILED,
    AsJson,
    CommandFailed,
    colored,
    connected,
    duration,
    first_line,
    new_table,
    out,
    show,
)
from kiln.cli.watch import LiveView
from kiln.client import Job, Jobs, Kiln
from kiln.types import JobData

JobId = Annotated[str, typer.Argument(metavar="ID", help="As in `kiln jobs`.", autocompletion=complete_job)]
JobIds = Annotated[list[str], typer.Argument(metavar="ID...", help="As in `kiln jobs`.", autocompletion=complete_job)]


group = typer.Typer(name="jobs", invoke_without_command=True)


@group.callback()
def jobs(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="Only jobs in this status, such as running.", autocompletion=complete_status)
    ] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="The largest number of jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first; or delete some."""
    if context.invoked_subcommand is not None:
        return
    with connected() as kiln:
        rows = list(kiln.jobs.list(status, limit))
    _show(rows, as_json)


def watch(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job's progress until it is over.

    With --json, prints one line per change. Ctrl-C ends the display; the job continues.
    """
    with connected() as kiln:
        follow(kiln, kiln.jobs.get(job_id), as_json)


def cancel(job_ids: JobIds, as_json: AsJson = False) -> None:
    """End jobs; they publish no model."""
    _act(job_ids, Jobs.cancel, as_json)


def pause(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Write checkpoints and free the workers."""
    _act(job_ids, Jobs.pause, as_json)


def resume(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Continue paused or lost jobs.

    They are queued again, and continue from their last checkpoint.
    """
    _act(job_ids, Jobs.resume, as_json)


def finish(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Stop training and publish the models so far."""
    _act(job_ids, Jobs.finish, as_json)


@group.command()
def delete(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Delete jobs that are over.

    Their metrics, events, checkpoints and sample grids are deleted too. Their models stay.
    """
    with connected() as kiln:
        for job_id in job_ids:
            kiln.jobs.delete(job_id)
    show(as_json, {"deleted": job_ids}, lambda: f"deleted {', '.join(job_ids)}")


def follow(kiln: Kiln, job: Job, as_json: bool) -> None:
    """Shows the job until it is over. Raises typer.Exit unless it succeeded."""
    if as_json:
        done = job.wait(lambda job: typer.echo(json.dumps(job.model_dump(mode="json"))))
    else:
        try:
            _watch_live(kiln, job.id) if out.is_terminal else _print_events(job)
        except KeyboardInterrupt:
            raise CommandFailed(f"the job continues; `kiln watch {job.id}` shows it again", INTERRUPTED) from None
        done = job.refresh()
        out.print(job_line(done))
    if done.status != "succeeded":
        raise typer.Exit(JOB_FAILED)


def job_line(job: JobData) -> RenderableType:
    progress = f"  {job.progress.images_seen:,} of {job.progress.images_total:,} images"
    line = Text.assemble(job.id, "  ", _status(job), progress)
    if job.model_id:
        line.append(f"\nmodel {job.model_id}; `kiln promote {job.model_id}` makes `kiln generate` use it")
    if job.error:
        line.append(f"\n{job.reason}: {job.error}", style="red")
    return line


def _watch_live(kiln: Kiln, job_id: str) -> None:
    with LiveView(out) as view:
        for update in kiln.jobs.follow(job_id):
            if isinstance(update, JobData):
                view.show(update)
            elif update.kind == "sample" and view.shows_images:
                view.show_grid(kiln.jobs.sample_png(job_id, int(update.data["nimg"])), update.message)


def _print_events(job: Job) -> None:
    """Prints one line per event, without moving parts, for logs."""
    for event in job.events():
        time = f"{event.at:%H:%M:%S}  " if event.at else ""
        out.print(Text(f"{time}{event.message}"))


def _act(job_ids: Sequence[str], action: Callable[[Jobs, str], Job], as_json: bool) -> None:
    with connected() as kiln:
        rows = [action(kiln.jobs, job_id) for job_id in job_ids]
    _show(rows, as_json)


def _show(jobs: Sequence[Job], as_json: bool) -> None:
    show(as_json, [job.model_dump(mode="json") for job in jobs], lambda: _job_table(jobs))


def _job_table(jobs: Sequence[JobData]) -> RenderableType:
    if not jobs:
        return Text("no jobs; `kiln train` queues one", style="dim")
    table = new_table("id", "preset", "name", "status", "progress", "images/s", "left", "model or error")
    for job in jobs:
        rate = job.progress.images_per_second
        table.add_row(
            job.id, job.preset, job.name or "", _status(job), f"{job.progress.fraction:.1%}",
            "" if job.is_over or not rate else f"{rate:,.0f}",
            "" if job.is_over else duration(job.progress.eta_seconds), job.model_id or first_line(job.error),
        )  # fmt: skip
    return table


def _status(job: JobData) -> Text:
    return colored(job.status, f"{job.status} ({job.reason})" if job.reason else None)
