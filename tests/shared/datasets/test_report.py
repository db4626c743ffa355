"""The report on a folder: as a whole for a folder with many kinds of trouble, and its digest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.datasets.report import AHEAD, report
from tests.shared.datasets.images import (
    BLUE,
    GREEN,
    RED,
    encoded,
    frames,
    noise,
    png_that_claims,
    solid,
    with_orientation,
    write,
)


@pytest.fixture
def troubled(tmp_path: Path) -> Path:
    """A folder of three classes in which almost everything is wrong that people's folders have wrong."""
    # Readable: every format and ending, upright sizes in the comments
    write(tmp_path / "cats/photo.jpg", encoded(noise(40, 50, seed=1), "JPEG"))  # 40x50
    write(tmp_path / "cats/really-a-png.jpg", encoded(noise(40, 50, seed=2)))  # 40x50
    write(tmp_path / "cats/no-ending", encoded(noise(40, 50, seed=3), "WEBP"))  # 40x50
    write(tmp_path / "cats/2024/turned.png", with_orientation(noise(50, 40, seed=4), 6))  # 40x50
    write(tmp_path / "cats/phone.heic", encoded(noise(64, 48, seed=5), "HEIF"))  # 64x48
    write(tmp_path / "cats/scan16.png", encoded(Image.fromarray(np.full((8, 9), 700, dtype=np.uint16))))  # 9x8
    write(tmp_path / "cats/cut-out.png", encoded(solid((0, 0, 0, 0), mode="RGBA")))  # 32x32
    # Readable, with a warning
    write(tmp_path / "dogs/film.gif", encoded(solid(RED), "GIF", **frames(GREEN)))  # 32x32
    write(tmp_path / "dogs/fax.tiff", encoded(solid(GREEN), "TIFF", **frames(BLUE)))  # 32x32
    write(tmp_path / "dogs/odd-profile.png", encoded(solid(BLUE), icc_profile=b"none"))  # 32x32
    write(tmp_path / "dogs/copy-of-a-cat.jpg", (tmp_path / "cats/photo.jpg").read_bytes())  # 40x50
    # Damaged, or with pixels that Kiln does not read
    write(tmp_path / "dogs/empty.jpg", b"")
    write(tmp_path / "dogs/half.jpg", encoded(noise(), "JPEG")[:800])
    write(tmp_path / "dogs/not-found.jpg", b"<!DOCTYPE html><title>404</title>")
    write(tmp_path / "dogs/bomb.png", png_that_claims(30_000, 30_000))
    write(tmp_path / "dogs/depth.tiff", encoded(Image.fromarray(np.array([[0, 900]], dtype=np.float32)), "TIFF"))
    write(tmp_path / "dogs/labels.tiff", encoded(Image.fromarray(np.array([[0, 9]], dtype=np.int32)), "TIFF"))
    write(Path(os.fsdecode(bytes(tmp_path) + b"/dogs/caf\xe9.png")), b"no image")
    write(tmp_path / "mice/gone.png", b"")
    # Left out
    write(tmp_path / ".ipynb_checkpoints/1.png", encoded(solid(RED)))
    write(tmp_path / "__MACOSX/cats/._photo.jpg", b"resource fork")
    write(tmp_path / "cats/Thumbs.db", b"thumbnails")
    write(tmp_path / "cats/.DS_Store", b"desktop")
    write(tmp_path / "cats/notes.txt", b"my favourite cats")
    write(tmp_path / "cats/raw.dng", encoded(solid(RED), "TIFF"))
    write(tmp_path / "cover.png", encoded(solid(GREEN)))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "cats/again.jpg").symlink_to("photo.jpg")
    (tmp_path / "cats/hard.jpg").hardlink_to(tmp_path / "cats/photo.jpg")
    (tmp_path / "cats/loop").symlink_to("..")
    (tmp_path / "cats/nowhere.png").symlink_to("/does/not/exist.png")
    os.mkfifo(tmp_path / "cats/pipe.png")
    return tmp_path


def test_a_folder_with_many_kinds_of_trouble_is_reported_as_a_whole(troubled: Path) -> None:
    seen = report(troubled).model_dump(mode="json", exclude={"digest"})
    skipped = {kind: {file["path"]: file["reason"] for file in seen.pop(kind)} for kind in ("damaged", "ignored")}
    assert skipped["damaged"] == {
        "dogs/bomb.png": "more than 89,478,485 pixels; make the image smaller",
        "dogs/caf\\xe9.png": "not an image in a format that Kiln reads, or its header is damaged",
        "dogs/depth.tiff": "pixels are floats from 0 to 900; Kiln reads floats in [0, 1]",
        "dogs/empty.jpg": "the file is empty",
        "dogs/half.jpg": "damaged: image file is truncated (15 bytes not processed)",
        "dogs/labels.tiff": "pixels are integers of 32 bits, whose range is unknown; convert the image to 8 or 16 bits",
        "dogs/not-found.jpg": "not an image in a format that Kiln reads, or its header is damaged",
        "mice/gone.png": "the file is empty",
    }
    assert skipped["ignored"] == {
        ".ipynb_checkpoints": "hidden: its name starts with a dot",
        "__MACOSX": "a file of the operating system",
        "cats/.DS_Store": "hidden: its name starts with a dot",
        "cats/Thumbs.db": "a file of the operating system",
        "cats/again.jpg": "the same file as cats/hard.jpg",
        "cats/loop": "a link to a folder that is read already",
        "cats/notes.txt": "not an image",
        "cats/nowhere.png": "a link that leads nowhere: No such file or directory",
        "cats/photo.jpg": "the same file as cats/hard.jpg",
        "cats/pipe.png": "not a regular file",
        "cats/raw.dng": "a camera's raw file: convert it to TIFF or JPEG",
        "cover.png": "beside the folders of the classes",
    }
    assert seen == {
        "layout": "<class>/*",
        "conditional": True,
        "classes": ["cats", "dogs", "mice"],
        "counts": {"train": {"cats": 7, "dogs": 3, "mice": 0}, "test": {"cats": 0, "dogs": 1, "mice": 0}},
        "resolutions": {"40x50": 5, "32x32": 4, "64x48": 1, "9x8": 1},
        "channels": 3,
        "warnings": [
            "no images in 'annotations': not read as classes",
            "1 image beside the folders of the classes: not read, without a class",
            "animated: the first image of the file is read: 1 file (dogs/film.gif)",
            "several pages: the first image of the file is read: 1 file (dogs/fax.tiff)",
            "unusable colour profile: the colours are read as sRGB: 1 file (dogs/odd-profile.png)",
            "1 file with the same bytes as another file (dogs/copy-of-a-cat.jpg)",
            "1 copy of an image of another class (dogs/copy-of-a-cat.jpg)",
            "1 test image with the same bytes as a training image (dogs/copy-of-a-cat.jpg)",
        ],
        "held_out": "1 of 19 images are held out for testing: in each class the tenth whose names have the smallest "
        "SHA-256",
    }


def test_a_folder_without_trouble_has_a_short_report(tmp_path: Path) -> None:
    for seed, name in enumerate(("train/cats/1.png", "train/dogs/1.png", "test/dogs/2.png")):
        write(tmp_path / name, noise(seed=seed))
    seen = report(tmp_path)
    assert (seen.damaged, seen.ignored, seen.warnings, seen.held_out, seen.images) == ((), (), (), None, 3)
    assert seen.counts == {"train": {"cats": 1, "dogs": 1}, "test": {"cats": 0, "dogs": 1}}


@pytest.mark.parametrize(("last", "channels"), [((9, 9, 9), 1), ((9, 9, 8), 3)])
def test_a_data_set_is_grey_if_all_its_images_are(tmp_path: Path, last: tuple[int, int, int], channels: int) -> None:
    write(tmp_path / "a/1.png", solid(77, mode="L"))
    write(tmp_path / "a/2.png", solid(last))
    assert report(tmp_path).channels == channels


def test_copies_of_training_images_in_the_test_split_are_a_warning(tmp_path: Path) -> None:
    for name in ("train/cats/1.png", "test/cats/2.png"):
        write(tmp_path / name, noise())
    assert "1 test image with the same bytes as a training image (test/cats/2.png)" in report(tmp_path).warnings


@pytest.mark.parametrize("change", ["pixels", "class", "name of a class", "split", "nothing", "name of a file"])
def test_the_digest_depends_on_the_bytes_classes_and_splits_of_the_images(tmp_path: Path, change: str) -> None:
    for path in ("train/cats/1.png", "train/dogs/2.png", "train/dogs/3.png"):
        write(tmp_path / path, noise(seed=ord(path[-5])))
    before = report(tmp_path).digest
    if change == "pixels":
        write(tmp_path / "train/cats/1.png", noise(seed=9))
    elif change == "class":
        (tmp_path / "train/dogs/2.png").rename(tmp_path / "train/cats/2.png")
    elif change == "name of a class":
        (tmp_path / "train/dogs").rename(tmp_path / "train/foxes")
    elif change == "split":
        (tmp_path / "test/dogs").mkdir(parents=True)
        (tmp_path / "train/dogs/3.png").rename(tmp_path / "test/dogs/3.png")
    elif change == "name of a file":
        (tmp_path / "train/dogs/3.png").rename(tmp_path / "train/dogs/9.png")
    assert (report(tmp_path).digest == before) == (change in ("nothing", "name of a file"))


def test_the_report_counts_the_files_as_it_reads_them(tmp_path: Path) -> None:
    # Given more files than are decoded ahead
    count = AHEAD + 10
    for i in range(count):
        write(tmp_path / f"a/{i}.png", solid((i, i, i), (2, 2)))
    progress: list[tuple[int, int]] = []
    report(tmp_path, lambda done, total: progress.append((done, total)))
    assert progress == [(i, count) for i in range(1, count + 1)]
