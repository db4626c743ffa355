"""`kiln train` queues a training job; `kiln presets` lists the configurations that a job can start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from kiln.cli.completion import complete_override, complete_preset
from kiln.cli.jobs import follow, job_line
from kiln.cli.output import AsJson, connected, new_table, show
from kiln.cli.values import parse_overrides
from kiln.client import Kiln
from kiln.errors import NotFound

Preset = Annotated[str, typer.Option("--preset", "-p", help="See `kiln presets`.", autocompletion=complete_preset)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override", "-o", metavar="FIELD=VALUE", help="Change a value of the preset. May be repeated.",
        autocompletion=complete_override,
    ),
]  # fmt: skip
Dataset = Annotated[
    str | None,
    typer.Option(
        help="A name of `kiln datasets`. Default: cifar10, or with from_checkpoint that job's data set.",
        show_default=False,
    ),
]
Name = Annotated[str | None, typer.Option(help="A name of your choice, shown in lists.")]


def train(
    preset: Preset = "tiny",
    override: Overrides = None,
    dataset: Dataset = None,
    name: Name = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show the progress until the job is over.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved config and queue nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a training job."""
    overrides = parse_overrides(override or [])
    with connected() as kiln:
        if dry_run:
            resolved = kiln.jobs.dry_run(preset, overrides, dataset=dataset)
            base = preset_config(kiln, preset)
            show(as_json, resolved, lambda: _resolved_config(resolved["config"], base))
            return
        job = kiln.jobs.create(preset, overrides, dataset=dataset, name=name)
        if watch:
            follow(kiln, job, as_json)
        else:
            show(as_json, job.model_dump(mode="json"), lambda: job_line(job))


def presets(
    name: Annotated[str | None, typer.Argument(autocompletion=complete_preset)] = None, as_json: AsJson = False
) -> None:
    """List the presets, or show one of them.

    A single preset is shown with the source of each value.
    """
    with connected() as kiln:
        if name is None:
            rows = kiln.presets.list()
            show(as_json, rows, lambda: _preset_table(rows))
        else:
            preset = kiln.presets.get(name)
            show(as_json, preset, lambda: _preset_details(preset))


def preset_config(kiln: Kiln, preset: str) -> dict[str, Any]:
    """Empty for `classifier`, which is not in the list of presets, and for names that the API will refuse."""
    try:
        config: dict[str, Any] = kiln.presets.get(preset)["config"]
    except NotFound:
        return {}
    return config


def _preset_table(presets: Iterable[Mapping[str, Any]]) -> RenderableType:
    table = new_table("preset", "generator", "discriminator", "summary")
    for preset in presets:
        counts = preset["parameters"]
        table.add_row(preset["name"], f"{counts['generator']:,}", f"{counts['discriminator']:,}", preset["summary"])
    return table


def _preset_details(preset: Mapping[str, Any]) -> RenderableType:
    table = new_table("field", "value", "source")
    for field, value in preset["config"].items():
        table.add_row(field, str(value), preset["sources"].get(field, ""))
    return Group(Text(preset["summary"]), table)


def _resolved_config(config: Mapping[str, Any], base: Mapping[str, Any]) -> RenderableType:
    """The config, with the values that differ from the preset's in bold."""
    table = new_table("field", "value", "preset")
    for field, value in config.items():
        original = base.get(field, value)
        is_changed = value != original
        table.add_row(field, str(value), str(original) if is_changed else "", style="bold yellow" if is_changed else "")
    return table
