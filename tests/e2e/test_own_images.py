"""The tutorial on a user's own images is true: its commands run on a folder of 200 images, against a real stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from tests.e2e.test_readme import NEWEST, blocks, run_as_shell
from tests.processes import ROOT, Stack, running_stack

PAGE = (ROOT / "docs" / "tutorials" / "your-own-images.md").read_text()
COUNTS = {"crack": 90, "patch": 70, "pothole": 40}
# Two steps of a small network, in place of two hours
SMALL = "-o total_nimg=64 -o tick_nimg=32 -o snapshot_nimg=64 -o eval_images=0 -o 'g_channels=[64,32,16,16,8]'"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("own-images")
    with running_stack(folder / "data", folder / "datasets") as stack:
        yield stack


@pytest.fixture
def road_damage(tmp_path: Path) -> Path:
    """200 photographs of 64 pixels: JPEGs, some of them turned by EXIF, one HEIC and one damaged file."""
    folder, rng = tmp_path / "road-damage" / "train", np.random.default_rng(0)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for channel, (label, count) in enumerate(COUNTS.items()):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
            pixels[16:48, 16:48, channel] += 150
            image = Image.fromarray(pixels)
            exif = turned if number % 3 == 0 else Image.Exif()
            image.save(folder / label / f"{number:04d}.jpg", quality=90, exif=exif)
    (folder / "patch" / "0000.jpg").unlink()
    pillow_heif.from_pillow(image).save(folder / "patch" / "IMG_2041.HEIC")
    damaged = folder / "crack" / "0001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:400])
    return tmp_path / "road-damage"


def test_the_tutorial_of_your_own_images_runs(stack: Stack, road_damage: Path, tmp_path: Path) -> None:
    commands = "\n".join(blocks(PAGE, "bash"))
    assert commands.count("kiln ") == 8
    script = commands.replace("own-images-64-cpu", f"own-images-64-cpu {SMALL}")
    script = script.replace("kiln promote MODEL", f"kiln promote {NEWEST}")

    output = run_as_shell(script, stack, tmp_path, preset="own-images-64-cpu")

    # The report names the damaged file, and counts the others
    assert output.count("damaged: train/crack/0001.jpg: ") == 2
    dataset = stack.http.get("/datasets/road-damage").json()
    assert dataset["counts"] == {"train": COUNTS | {"crack": 89}}
    assert dataset["report"]["resolutions"] == {"64x64": 199}
    # The model makes images of 64 pixels
    with Image.open(tmp_path / "potholes.png") as sheet:
        assert sheet.size == (256, 256)
    # And the smaller classes are filled up
    made = tmp_path / "road-damage-more"
    counts = {label: len(list(made.rglob(f"{label}/*.png"))) for label in COUNTS}
    assert counts == {"crack": 0, "patch": 19, "pothole": 49}, json.dumps(counts)
