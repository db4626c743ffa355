"""`kiln sweep`, `kiln sweeps` and `kiln compare`: searching values, and jobs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from kiln import _requests as wire
from kiln.cli.output import COLORS, AsJson, connected, new_table, show
from kiln.sweeps import SweepData
from shared.configs.presets import parse_overrides
from shared.sweeps.validation import parse_space

SWEEP_FAILED = 1
STATE_COLORS = COLORS | {"complete": "green", "pruned": "yellow"}
ACCEPTS = {".png": "image/png", ".csv": "text/csv", ".md": "text/markdown", ".json": "application/json"}


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
    metric: Annotated[str, typer.Option("-m", "--metric", help="A column of the metrics series, or a model's figure.")],
    direction: Annotated[Direction, typer.Option(help="What is to become of it.")] = Direction.MINIMIZE,
    n_trials: Annotated[int, typer.Option("-n", "--trials", help="How many jobs.")] = 20,
    preset: Annotated[str, typer.Option("--preset", "-p", help="See `kiln presets`.")] = "tiny",
    override: Annotated[
        list[str] | None, typer.Option("-o", "--override", metavar="FIELD=VALUE", help="The same in all trials.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="Folder below KILN_DATASETS.")] = "cifar10",
    name: Annotated[str | None, typer.Option(help="Anything that helps you remember.")] = None,
    pruning: Annotated[bool, typer.Option("--pruning", help="Stop trials that are worse than the median.")] = False,
    parallelism: Annotated[int | None, typer.Option(help="Trials at a time; else one per worker.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it is over.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only check the plan.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best values of some overrides: the trials are ordinary jobs."""
    plan: dict[str, Any] = {
        "overrides": parse_overrides(override or []), "dataset": dataset, "name": name, "n_trials": n_trials,
        "pruning": pruning, "parallelism": parallelism, "seed": seed,
    }  # fmt: skip
    with connected() as kiln:
        what = (preset, parse_space(space), metric, direction.value)
        if dry_run:
            resolved = kiln.sweeps.dry_run(*what, **plan)
            show(as_json, resolved, lambda: Text("this plan makes sense", style="green"))
            return
        sweep = kiln.sweeps.create(*what, **plan)
        if watch:
            sweep = kiln.sweeps.wait(
                sweep.id, None if as_json else lambda sweep: show(False, None, lambda: _line(sweep))
            )
    _show(sweep, as_json)
    if sweep.status in ("failed", "cancelled"):
        raise typer.Exit(SWEEP_FAILED)


def sweeps(
    sweep_id: Annotated[str | None, typer.Argument(metavar="[ID]")] = None,
    promote: Annotated[bool, typer.Option(help="Serve the model of the best trial so far.")] = False,
    alias: Annotated[str, typer.Option(help="As what to serve it; `default` is what `generate` uses.")] = "default",
    cancel: Annotated[bool, typer.Option(help="End it, and those of its jobs that are not over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List sweeps, newest first, or show one with its trials."""
    with connected() as kiln:
        if sweep_id is None:
            found = kiln.sweeps.list()
            plain = [sweep.model_dump(mode="json", exclude={"trials"}) for sweep in found]
            show(as_json, plain, lambda: _list(found))
            return
        if cancel:
            kiln.sweeps.cancel(sweep_id)
        if promote:
            kiln.sweeps.promote(sweep_id, alias)
        _show(kiln.sweeps.get(sweep_id), as_json)


def compare(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Jobs, as `kiln jobs` lists them.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A .png with curves and grids, or a .csv, .md or .json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lay jobs side by side: losses at both ends, accuracies, figures, time, and what differs in their configs."""
    with connected() as kiln:
        if output is None:
            rows = kiln.send(wire.compare(job_ids))
            show(as_json, rows, lambda: _comparison(rows))
            return
        if output.suffix not in ACCEPTS:
            raise typer.BadParameter(f"{output} ends in none of {', '.join(ACCEPTS)}", param_hint="--output")
        answer = kiln.send(wire.file("/compare", {"jobs": ",".join(job_ids)}, ACCEPTS[output.suffix]))
    output.write_bytes(answer.content)
    show(as_json, {"file": str(output), "bytes": len(answer.content)}, lambda: str(output))


def _show(sweep: SweepData, as_json: bool) -> None:
    show(as_json, sweep.model_dump(mode="json"), lambda: _details(sweep))


def _list(found: Sequence[SweepData]) -> RenderableType:
    if not found:
        return Text("no sweeps yet; `kiln sweep` makes one", style="dim")
    table = new_table("id", "preset", "name", "status", "trials", "varied", "best")
    for sweep in found:
        best = "" if sweep.best is None else f"{sweep.objective['metric']} {sweep.best.value:.4g}"
        table.add_row(sweep.id, sweep.preset, sweep.name or "", _colored(sweep.status), _counts(sweep),
                      ", ".join(sweep.space), best)  # fmt: skip
    return table


def _line(sweep: SweepData) -> RenderableType:
    line = Text.assemble(sweep.id, "  ", _colored(sweep.status), f"  {_counts(sweep)}")
    if sweep.best is not None:
        line.append(f"  best {sweep.objective['metric']} {sweep.best.value:.4g} (trial {sweep.best.number})")
    if sweep.error:
        line.append(f"\n{sweep.error}", style="red")
    return line


def _details(sweep: SweepData) -> RenderableType:
    table = new_table("trial", "state", sweep.objective["metric"], *sweep.space, "job", "")
    for trial in sweep.trials:
        is_best = sweep.best is not None and trial.number == sweep.best.number
        value = "" if trial.value is None else f"{trial.value:.4g}"
        params = (_value(trial.params.get(name)) for name in sweep.space)
        table.add_row(str(trial.number), _colored(trial.state), value, *params, trial.job_id or "",
                      (trial.error or "")[:80], style="bold" if is_best else "")  # fmt: skip
    return Group(_line(sweep), table)


def _comparison(rows: Sequence[dict[str, Any]]) -> RenderableType:
    """Turned on its side: a column for each job."""
    flat = [{name: value for name, value in row.items() if name != "config"} | row["config"] for row in rows]
    table = new_table("", *(str(row["name"]) for row in flat))
    for name in dict.fromkeys(name for row in flat for name in row):
        if name != "name":
            table.add_row(name.replace("_", " "), *(_value(row.get(name)) for row in flat))
    return table


def _counts(sweep: SweepData) -> str:
    over = sum(count for state, count in sweep.counts.items() if state != "running")
    bad = ", ".join(f"{sweep.counts[state]} {state}" for state in ("pruned", "failed") if sweep.counts.get(state))
    return f"{over} of {sweep.n_trials}" + (f" ({bad})" if bad else "")


def _value(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _colored(word: str) -> Text:
    return Text(word, style=STATE_COLORS[word])
