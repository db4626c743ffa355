"""`kiln models` and `kiln promote`: published models and the aliases that point at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from kiln.cli.completion import complete_model
from kiln.cli.output import AsJson, connected, new_table, show
from kiln.types import ModelData

group = typer.Typer(name="models", invoke_without_command=True)


@group.callback()
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List models, newest first; or delete some."""
    if context.invoked_subcommand is not None:
        return
    with connected() as kiln:
        rows = kiln.models.list()
    show(as_json, [model.model_dump(mode="json") for model in rows], lambda: _model_table(rows))


@group.command()
def delete(
    model_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="As in `kiln models`.", autocompletion=complete_model)
    ],
    as_json: AsJson = False,
) -> None:
    """Delete models and their files.

    A model that an alias points at is refused.
    """
    with connected() as kiln:
        for model_id in model_ids:
            kiln.models.delete(model_id)
    show(as_json, {"deleted": model_ids}, lambda: f"deleted {', '.join(model_ids)}")


def promote(
    model_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=complete_model)],
    alias: Annotated[str, typer.Option(help="`generate` uses the alias `default`.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Point an alias at a model.

    Without --alias, makes it the model that `generate` uses.
    """
    with connected() as kiln:
        kiln.models.promote(model_id, alias)
    show(as_json, {"alias": alias, "model_id": model_id}, lambda: f"{alias} -> {model_id}")


def _model_table(models: Sequence[ModelData]) -> RenderableType:
    if not models:
        return Text("no models; `kiln train` makes one", style="dim")
    table = new_table("id", "aliases", "preset", "images seen", "FID", "ImageNet FID", "classes", "served")
    for model in models:
        manifest = model.manifest
        table.add_row(
            model.id, ", ".join(model.aliases), manifest["preset"], f"{manifest['images_seen']:,}",
            _figure(model, "fid"), _figure(model, "imagenet_fid"),
            str(len(manifest["classes"])) if manifest["conditional"] else "none",
            Text(f"no: {model.refused}", style="red") if model.refused else "yes",
        )  # fmt: skip
    return table


def _figure(model: ModelData, metric: str) -> str:
    value = model.metrics.get(metric)
    return "" if value is None else f"{value:.2f}"
