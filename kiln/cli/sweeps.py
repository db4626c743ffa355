"""`kiln sweep`, `kiln sweeps` and `kiln compare`: hyperparameter searches, and jobs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from kiln.cli.completion import complete_job, complete_sweep
from kiln.cli.output import (
    BAD_INPUT,
    JOB_FAILED,
    AsJson,
    CommandFailed,
    colored,
    connected,
    format_value,
    new_table,
    show,
    write_file,
)
from kiln.cli.train import Dataset, Name, Overrides, Preset, preset_config
from kiln.cli.values import parse_overrides, parse_space
from kiln.types import SweepData

MEDIA_TYPES = {".png": "image/png", ".csv": "text/csv", ".md": "text/markdown", ".json": "application/json"}


class Direction(StrEnum):
    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


def sweep(
    space: Annotated[
        list[str],
        typer.Option(
            "-s", "--space", metavar="FIELD=VALUES", help="lr=1e-5..1e-2,log  batch_size=16..64,step=16  loss=hinge,bce"
        ),
    ],
    metric: Annotated[
        str,
        typer.Option("-m", "--metric", help="A column of the metrics series, or a figure of the model."),
    ],
    direction: Annotated[Direction, typer.Option(help="Minimise or maximise the metric.")] = Direction.MINIMIZE,
    n_trials: Annotated[int, typer.Option("-n", "--trials", help="How many jobs to train.")] = 20,
    preset: Preset = "tiny",
    override: Overrides = None,
    dataset: Dataset = None,
    name: Name = None,
    pruning: Annotated[bool, typer.Option("--pruning", help="Stop trials that are worse than the median.")] = False,
    parallelism: Annotated[int | None, typer.Option(help="Trials at a time. Default: one per worker.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Wait, and print a line after each trial.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the request and start nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best values of some fields.

    Each trial is an ordinary job.
    """
    options: dict[str, Any] = {
        "overrides": parse_overrides(override or []), "name": name, "n_trials": n_trials,
        "pruning": pruning, "parallelism": parallelism, "seed": seed,
    }  # fmt: skip
    if dataset is not None:
        options["dataset"] = dataset
    with connected() as kiln:
        objective = (preset, parse_space(space, preset_config(kiln, preset)), metric, direction.value)
        if dry_run:
            resolved = kiln.sweeps.dry_run(*objective, **options)
            show(as_json, resolved, lambda: Text("the request is valid", style="green"))
            return
        sweep = kiln.sweeps.create(*objective, **options)
        if watch:
            sweep = kiln.sweeps.wait(
                sweep.id, None if as_json else lambda sweep: show(False, None, lambda: _line(sweep))
            )
    _show(sweep, as_json)
    if sweep.status in ("failed", "cancelled"):
        raise typer.Exit(JOB_FAILED)


def sweeps(
    sweep_id: Annotated[str | None, typer.Argument(metavar="[ID]", autocompletion=complete_sweep)] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Point an alias at the best model so far.")] = False,
    alias: Annotated[str, typer.Option(help="With --promote; `generate` uses the alias `default`.")] = "default",
    cancel: Annotated[bool, typer.Option("--cancel", help="End the sweep and its jobs.")] = False,
    as_json: AsJson = False,
) -> None:
    """List sweeps, or show one with its trials."""
    with connected() as kiln:
        if sweep_id is None:
            rows = kiln.sweeps.list()
            show(as_json, [row.model_dump(mode="json", exclude={"trials"}) for row in rows], lambda: _sweep_table(rows))
            return
        if cancel:
            kiln.sweeps.cancel(sweep_id)
        if promote:
            kiln.sweeps.promote(sweep_id, alias)
        _show(kiln.sweeps.get(sweep_id), as_json)


def compare(
    job_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="As in `kiln jobs`.", autocompletion=complete_job)
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .png with curves and grids, or a .csv, .md or .json table.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare jobs side by side.

    Shows losses, accuracies, metrics, time, and the config fields that differ.
    """
    if output is not None and output.suffix not in MEDIA_TYPES:
        raise CommandFailed(f"--output {output}: expected a name that ends in {', '.join(MEDIA_TYPES)}", BAD_INPUT)
    with connected() as kiln:
        if output is None:
            rows = kiln.jobs.compare(job_ids)
            show(as_json, rows, lambda: _comparison(rows))
            return
        response = kiln.get("/compare", {"jobs": ",".join(job_ids)}, accept=MEDIA_TYPES[output.suffix])
    write_file(output, response.content)
    show(as_json, {"file": str(output), "bytes": len(response.content)}, lambda: str(output))


def _show(sweep: SweepData, as_json: bool) -> None:
    show(as_json, sweep.model_dump(mode="json"), lambda: _details(sweep))


def _sweep_table(sweeps: Sequence[SweepData]) -> RenderableType:
    if not sweeps:
        return Text("no sweeps; `kiln sweep` starts one", style="dim")
    table = new_table("id", "preset", "name", "status", "trials", "space", "best")
    for sweep in sweeps:
        table.add_row(
            sweep.id, sweep.preset, sweep.name or "", colored(sweep.status), _trial_count(sweep),
            ", ".join(sweep.space), _best(sweep),
        )  # fmt: skip
    return table


def _line(sweep: SweepData) -> RenderableType:
    line = Text.assemble(sweep.id, "  ", colored(sweep.status), f"  {_trial_count(sweep)}")
    if sweep.best is not None:
        line.append(f"  best {_best(sweep)} (trial {sweep.best.number})")
    if sweep.error:
        line.append(f"\n{sweep.error}", style="red")
    return line


def _details(sweep: SweepData) -> RenderableType:
    table = new_table("trial", "state", sweep.objective["metric"], *sweep.space, "job", "error")
    for trial in sweep.trials:
        is_best = sweep.best is not None and trial.number == sweep.best.number
        params = (format_value(trial.params.get(name)) for name in sweep.space)
        table.add_row(
            str(trial.number), colored(trial.state), format_value(trial.value), *params, trial.job_id or "",
            (trial.error or "")[:80], style="bold" if is_best else "",
        )  # fmt: skip
    return Group(_line(sweep), table)


def _comparison(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """One column per job, one row per value."""
    jobs = [{name: value for name, value in row.items() if name != "config"} | row["config"] for row in rows]
    table = new_table("", *(str(job["name"]) for job in jobs))
    for name in dict.fromkeys(name for job in jobs for name in job):
        if name != "name":
            table.add_row(name.replace("_", " "), *(format_value(job.get(name)) for job in jobs))
    return table


def _trial_count(sweep: SweepData) -> str:
    over = sum(count for state, count in sweep.counts.items() if state != "running")
    others = ", ".join(f"{sweep.counts[state]} {state}" for state in ("pruned", "failed") if sweep.counts.get(state))
    return f"{over} of {sweep.n_trials}" + (f" ({others})" if others else "")


def _best(sweep: SweepData) -> str:
    return "" if sweep.best is None else f"{sweep.objective['metric']} {format_value(sweep.best.value)}"
