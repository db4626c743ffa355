"""`kiln generate --many` and `kiln jobs download`: a data set made by a model, in a folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.progress import track
from rich.text import Text

from kiln.cli.completion import complete_job
from kiln.cli.jobs import follow, group
from kiln.cli.output import AsJson, CommandFailed, connected, err, show
from kiln.client import Kiln

Out = Annotated[Path, typer.Option("--out", help="The folder to write to. It is created if necessary.")]


def generate_dataset(
    label: str | None, many: int | None, balance: str | None, folder: Path | None, as_json: bool, **options: Any
) -> None:
    """Queues a job, follows it, and downloads what it made. Raises CommandFailed, typer.Exit."""
    if folder is None:
        raise CommandFailed("--out: name the folder to write the data set to")
    if balance is not None and (many is not None or label is not None):
        raise CommandFailed("--balance decides how many images of which class are made; leave out CLASS and --many")
    size: dict[str, Any] = {"balance": balance, "n": many} if label is None else {"classes": {label: many}}
    with connected() as kiln:
        job = kiln.jobs.generate(**size, **options)
        follow(kiln, job, as_json)
        _download(kiln, job.id, folder, as_json)


@group.command()
def download(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="As in `kiln jobs`.", autocompletion=complete_job)],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Download the data set that a job has generated.

    Images go into a folder per class; shards of a WebDataset stay files.
    """
    with connected() as kiln:
        _download(kiln, job_id, out, as_json)


def _download(kiln: Kiln, job_id: str, folder: Path, as_json: bool) -> None:
    manifest = kiln.jobs.dataset(job_id)
    files = kiln.jobs.download(job_id, folder)
    for _ in track(files, "downloading", total=len(manifest["shards"]), console=err, transient=True):
        pass
    counts = ", ".join(f"{count:,} {name}" for name, count in manifest["classes"].items())
    lines = [f"{manifest['images']:,} images in {folder}" + (f": {counts}" if counts else "")]
    if manifest["rejected"]:
        lines.append(f"the classifier rejected {manifest['rejected']:,} others")
    show(as_json, manifest | {"folder": str(folder)}, lambda: Group(*map(Text, lines)))
