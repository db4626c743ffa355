"""The command `kiln`: a client of the REST API for people and for scripts.

Every command takes --json. Exit codes: 0 done; 1 the job failed, was lost or cancelled; 2 bad input; 3 no such thing;
4 not in this state; 5 not available, try later; 6 no key, or not the right one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer

from kiln import _requests as wire
from kiln._requests import ApiError, Conflict, InvalidInput, JobData, NotFound, Unauthorized, Unavailable
from kiln.cli import display, sweeps
from kiln.cli.doctor import examine
from kiln.cli.output import AsJson, connected, err, out, show
from kiln.client import Job, Kiln
from shared import errors
from shared.configs.presets import PRESETS, TrainConfig, parse_overrides
from shared.jobs.record import JobStatus

app = typer.Typer(
    name="kiln", no_args_is_help=True, help="Train class-conditional GANs as durable jobs, and serve their images.",
    context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False,
)  # fmt: skip

JOB_FAILED, BAD_INPUT, NOT_FOUND, CONFLICT, UNAVAILABLE, UNAUTHORIZED = range(1, 7)
EXIT_CODES: dict[type[ApiError], int] = {
    InvalidInput: BAD_INPUT, NotFound: NOT_FOUND, Conflict: CONFLICT, Unavailable: UNAVAILABLE,
    Unauthorized: UNAUTHORIZED,
}  # fmt: skip


def _starting(names: Iterable[str], typed: str) -> list[str]:
    return [name for name in names if name.startswith(typed)]


def complete_preset(incomplete: str) -> list[str]:
    return _starting(PRESETS, incomplete)


def complete_override(incomplete: str) -> list[str]:
    return _starting((f"{name}=" for name in TrainConfig.model_fields), incomplete)


def complete_job(incomplete: str) -> list[str]:
    return _ask(lambda kiln: [job.id for job in kiln.jobs.list(limit=50)], incomplete)


def complete_model(incomplete: str) -> list[str]:
    return _ask(lambda kiln: [model.id for model in kiln.models.list()], incomplete)


def _ask(call: Callable[[Kiln], list[str]], incomplete: str) -> list[str]:
    """For a shell's completion: whatever is wrong, there is simply nothing to offer."""
    try:
        with Kiln(max_wait_s=0, timeout_s=2.0) as kiln:
            return _starting(call(kiln), incomplete)
    except (ApiError, httpx2.TransportError, errors.InvalidInput):
        return []


JobIds = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="Jobs, as `kiln jobs` lists them.", autocompletion=complete_job),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="FIELD=VALUE", help="Change a value.", autocompletion=complete_override),
]

for command in (sweeps.sweep, sweeps.sweeps, sweeps.compare):
    app.command()(command)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def up(context: typer.Context) -> None:
    """Start everything on this machine, the dashboard too; Ctrl-C stops it. Options as of `python -m services.dev`."""
    os.execv(sys.executable, [sys.executable, "-m", "services.dev", *context.args])  # noqa: S606


@app.command()
def train(
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="See `kiln presets`.", autocompletion=complete_preset)
    ] = "tiny",
    override: Overrides = None,
    dataset: Annotated[str, typer.Option(help="Folder below KILN_DATASETS.")] = "cifar10",
    name: Annotated[str | None, typer.Option(help="Anything that helps you remember.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show how it goes.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only show what would be trained.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a training job."""
    overrides = parse_overrides(override or [])
    with connected() as kiln:
        if dry_run:
            resolved = kiln.jobs.dry_run(preset, overrides, dataset=dataset)
            base = kiln.presets.get(preset)["config"]
            show(as_json, resolved, lambda: display.config(resolved["config"], base))
            return
        job = kiln.jobs.create(preset, overrides, dataset=dataset, name=name)
        if watch:
            _follow(kiln, job, as_json)
        else:
            show(as_json, _plain(job), lambda: display.job_line(job))


@app.command()
def jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connected() as kiln:
        found = list(kiln.jobs.list(status, limit))
    show(as_json, [_plain(job) for job in found], lambda: display.jobs(found))


@app.command()
def watch(
    job_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_job)], as_json: AsJson = False
) -> None:
    """Follow a job until it is over. With --json, one line for each change."""
    with connected() as kiln:
        _follow(kiln, kiln.jobs.get(job_id), as_json)


@app.command()
def cancel(job_ids: JobIds, as_json: AsJson = False) -> None:
    """End jobs, wherever they are."""
    _act(job_ids, "cancel", as_json)


@app.command()
def pause(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Leave a checkpoint and give the worker to other jobs."""
    _act(job_ids, "pause", as_json)


@app.command()
def resume(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Go on with paused or lost jobs."""
    _act(job_ids, "resume", as_json)


@app.command()
def finish(job_ids: JobIds, as_json: AsJson = False) -> None:
    """Stop training now and keep the models so far."""
    _act(job_ids, "finish", as_json)


@app.command()
def generate(
    label: Annotated[str | None, typer.Argument(metavar="[CLASS]", help="Name or number of a class.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many images.")] = 16,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same images.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Id or alias; else the default model.", autocompletion=complete_model)
    ] = None,
    truncation: Annotated[float | None, typer.Option(help="Latents no further from zero than that.")] = None,
    columns: Annotated[int | None, typer.Option(help="Images in a row.")] = None,
    scale: Annotated[int, typer.Option(help="Repeat each pixel so many times.")] = 1,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; - is standard output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make images of a class, as one PNG."""
    options = {"seed": seed, "model": model, "truncation": truncation, "columns": columns, "scale": scale}
    with connected() as kiln:
        png = kiln.generate_png(label, n, **options)
    if output == Path("-"):
        sys.stdout.buffer.write(png)
        return
    path = output or Path(f"{label or 'images'}.png")
    path.write_bytes(png)
    show(as_json, {"file": str(path), "bytes": len(png)}, lambda: display.picture(path, png))


@app.command()
def models(as_json: AsJson = False) -> None:
    """List models, newest first."""
    with connected() as kiln:
        found = kiln.models.list()
    show(as_json, [model.model_dump(mode="json") for model in found], lambda: display.models(found))


@app.command()
def promote(
    model_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_model)],
    alias: Annotated[str, typer.Option(help="`default` is the one that `generate` uses.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Point an alias at a model, once that is warm."""
    with connected() as kiln:
        kiln.models.promote(model_id, alias)
    show(as_json, {"alias": alias, "model_id": model_id}, lambda: f"{alias} -> {model_id}")


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(autocompletion=complete_preset)] = None, as_json: AsJson = False
) -> None:
    """List what can be trained, or show one preset with the origin of each value."""
    with connected() as kiln:
        if name is None:
            found = kiln.presets.list()
            show(as_json, found, lambda: display.presets(found))
        else:
            preset = kiln.presets.get(name)
            show(as_json, preset, lambda: display.preset(preset))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at what is installed and running here, and say what to do about what is missing."""
    findings = list(examine())
    show(as_json, [finding.as_json() for finding in findings], lambda: display.findings(findings))
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def evaluate(context: typer.Context) -> None:
    """Print the figures of models: FID, KID and others. Options as of `python -m services.trainer evaluate`."""
    os.execv(sys.executable, [sys.executable, "-m", "services.trainer", "evaluate", *context.args])  # noqa: S606


def main() -> None:
    """Runs the command line; errors of the API become one line and an exit code."""
    try:
        app(prog_name="kiln")
    except errors.InvalidInput as error:
        _fail(error, BAD_INPUT)
    except ApiError as error:
        _fail(error, next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), JOB_FAILED))
    except httpx2.TransportError as error:
        where = error.request.url.copy_with(raw_path=b"/") if error._request else "the API"
        _fail(f"no answer from {where} ({error}); is it up (`kiln up`), and is KILN_URL right?", UNAVAILABLE)


def _act(job_ids: list[str], what: str, as_json: bool) -> None:
    with connected() as kiln:
        after = [kiln.jobs.act(job_id, what) for job_id in job_ids]
    show(as_json, [_plain(job) for job in after], lambda: display.jobs(after))


def _follow(kiln: Kiln, job: Job, as_json: bool) -> None:
    """Shows the job until it is over; raises typer.Exit unless it succeeded."""
    if as_json:
        done = job.wait(lambda job: typer.echo(json.dumps(_plain(job))))
    else:
        with display.Watch(out) as screen:
            _watch(kiln, job.id, screen)
        done = job.refresh()
        out.print(display.job_line(done))
    if done.status is not JobStatus.SUCCEEDED:
        raise typer.Exit(JOB_FAILED)


def _watch(kiln: Kiln, job_id: str, screen: display.Watch) -> None:
    for news in kiln.follow(job_id):
        if isinstance(news, JobData):
            screen.show(news)
        elif news.kind == "sample" and screen.shows_pictures:
            png = kiln.send(wire.sample_png(job_id, int(news.data["nimg"])))
            screen.show_grid(png, news.message)


def _plain(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json")


def _fail(error: object, code: int) -> None:
    err.print(f"kiln: {error}", style="red", highlight=False, markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
