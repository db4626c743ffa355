"""`kiln generate` and `kiln interpolate` make images with a model; `kiln verify` checks an image file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from kiln.cli.completion import complete_model
from kiln.cli.generated import generate_dataset
from kiln.cli.output import JOB_FAILED, AsJson, connected, out, read_file, show, write_file
from kiln.cli.pictures import picture
from kiln.types import VerificationData

Seed = Annotated[int | None, typer.Option(help="The same seed gives the same images.")]
Model = Annotated[
    str | None, typer.Option(help="Id or alias. Default: the alias `default`.", autocompletion=complete_model)
]
Truncation = Annotated[float | None, typer.Option(help="Resample latent values beyond this distance from zero.")]
Columns = Annotated[int | None, typer.Option(help="Images per row.")]
Scale = Annotated[int, typer.Option(help="Repeat each pixel this many times, in both directions.")]
FORMATS = {".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}  # by the ending of the output file; others are PNG
Output = Annotated[Path | None, typer.Option("-o", "--output", help="The file to write; `-` is standard output.")]


def generate(
    label: Annotated[str | None, typer.Argument(metavar="[CLASS]", help="Name or number of a class.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many images.")] = 16,
    seed: Seed = None,
    model: Model = None,
    truncation: Truncation = None,
    columns: Columns = None,
    scale: Scale = 1,
    output: Output = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of an output file that ends in .webp or .jpg. Default: 90.")
    ] = None,
    many: Annotated[int | None, typer.Option(min=1, help="Make a data set with this many images, as a job.")] = None,
    balance: Annotated[
        str | None, typer.Option(help="Make what the smaller classes of this data set lack, as a job.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the data set.")] = None,
    format: Annotated[str, typer.Option(help="Of the data set: imagefolder or webdataset.")] = "imagefolder",
    min_confidence: Annotated[
        float | None, typer.Option(help="Leave out images that the classifier does not recognise so clearly.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make images of a class, as one grid; or a data set of any size, in a folder.

    The grid is a PNG, or a WebP or JPEG file if OUTPUT ends in .webp or .jpg.

    With --many or --balance, a worker makes the data set as a job, and this command waits for it and downloads it.
    Without CLASS, --many makes an equal share of each class.
    """
    if many is not None or balance is not None:
        options = {"seed": seed, "model": model, "truncation": truncation, "min_confidence": min_confidence}
        generate_dataset(label, many, balance, out, as_json, format=format, **options)
        return
    options = {"seed": seed, "model": model, "truncation": truncation, "columns": columns, "scale": scale}
    file_format = FORMATS.get(output.suffix.lower()) if output else None
    with connected() as kiln:
        image = kiln.generate_png(label, n, **options, format=file_format, quality=quality)
    _save(image, output or _file_name(label or "images"), as_json)


def interpolate(
    start: Annotated[str | None, typer.Argument(metavar="[FROM]", help="The class to start from.")] = None,
    end: Annotated[str | None, typer.Argument(metavar="[TO]", help="The class to end with.")] = None,
    steps: Annotated[int, typer.Option(help="How many images, both ends included.")] = 16,
    seed: Seed = None,
    from_index: Annotated[int, typer.Option(help="The image of the seed to start from.")] = 0,
    to_index: Annotated[int, typer.Option(help="The image of the seed to end with.")] = 1,
    model: Model = None,
    truncation: Truncation = None,
    columns: Columns = None,
    scale: Scale = 1,
    animated: Annotated[bool, typer.Option("--animated", help="Write an animated PNG instead of a strip.")] = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Make the images between two classes.

    If both ends are the same class, makes the images between two images of that class.
    """
    options = {
        "steps": steps, "seed": seed, "from_index": from_index, "to_index": to_index, "model": model,
        "truncation": truncation, "columns": columns, "scale": scale, "format": "apng" if animated else None,
    }  # fmt: skip
    with connected() as kiln:
        png = kiln.interpolate_png(start, end, **options)
    name = "-".join(label for label in (start, end) if label) or "interpolation"
    _save(png, output or _file_name(name), as_json)


def verify(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file that Kiln made.")], as_json: AsJson = False
) -> None:
    """Check that the server reproduces an image file.

    The file carries its model, class and seed. The exit code is 1 if the server makes another image from them.
    """
    image = read_file(file)
    with connected() as kiln:
        verification = kiln.verify(image)
    show(as_json, verification.model_dump(mode="json"), lambda: _verdict(file, verification))
    if not verification.reproduced:
        raise typer.Exit(JOB_FAILED)


def _save(png: bytes, path: Path, as_json: bool) -> None:
    write_file(path, png)
    if path != Path("-"):
        show(as_json, {"file": str(path), "bytes": len(png)}, lambda: _saved(path, png))


def _saved(path: Path, png: bytes) -> RenderableType:
    return Group(picture(png), Text(str(path))) if out.is_terminal else Text(str(path))


def _file_name(label: str) -> Path:
    return Path(f"{label.replace('/', '_')}.png")


def _verdict(file: Path, verification: VerificationData) -> RenderableType:
    if verification.reproduced:
        line = Text(f"{file}: reproduced", style="green")
    else:
        line = Text(f"{file}: not reproduced: {verification.reason}", style="red")
    for name, value in (verification.provenance or {}).items():
        line.append(f"\n  {name}: {value}", style="dim")
    return line
