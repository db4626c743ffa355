"""Loading data sets, intact and damaged, their cache, and the order in which their images are sampled."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.trainer.data.datasets import (
    CIFAR10_FOLDER,
    NAMED_FILES,
    ImageDataset,
    has_test_split,
    load_dataset,
    load_test_split,
)
from services.trainer.data.progress import loading_progress
from services.trainer.data.sampler import Sampler
from shared.datasets.layouts import Split
from shared.errors import BadDataset
from shared.jobs.record import Reason
from shared.jobs.trainer_messages import FailureLine, parse_line
from tests.trainer.small import EventLog

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


# --- a folder of classes ------------------------------------------------------------------------------------------


def test_a_folder_of_classes_is_read_in_alphabetical_order(tmp_path: Path) -> None:
    # Given three images of two classes, of odd sizes
    write(tmp_path / "pets/train/dogs/b.png", solid(45, 37, (1, 2, 3)))
    write(tmp_path / "pets/train/cats/z.png", solid(33, 100, (4, 5, 6)))
    write(tmp_path / "pets/train/dogs/a.jpg", solid(5, 7, (128, 128, 128)))
    # When they are loaded
    dataset = load_dataset(tmp_path, "pets")
    # Then all are 32x32 and each has the label of its folder
    assert dataset.classes == ("cats", "dogs")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.images.shape == (3, 3, 32, 32)
    assert dataset.images.dtype == torch.uint8
    assert [values_of(image) for image in dataset.images] == [[4, 5, 6], [128], [1, 2, 3]]


def test_splits_are_read_from_folders_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "pets/train/cats/1.png", solid(32, 32, (1, 1, 1)))
    write(tmp_path / "pets/test/cats/1.png", solid(32, 32, (2, 2, 2)))
    assert values_of(load_dataset(tmp_path, "pets", "train").images) == [1]
    assert values_of(load_dataset(tmp_path, "pets", "test").images) == [2]


def half_of(png: bytes) -> bytes:
    return png[: len(png) // 2]


def with_a_short_chunk(png: bytes) -> bytes:
    """Halves the stated length of the pixel data, so that the next chunk is misread."""
    at = png.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", png[at : at + 4])
    return png[:at] + struct.pack(">I", length // 2) + png[at + 4 :]


def nothing(png: bytes) -> bytes:
    return b""


def a_text(png: bytes) -> bytes:
    return b"not an image at all"


@pytest.mark.parametrize("damage", [half_of, with_a_short_chunk, nothing, a_text])
def test_a_damaged_image_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    # Given a good image and a damaged one
    write(tmp_path / "pets/train/cats/good.png", noise())
    bad = tmp_path / "pets/train/cats/bad.png"
    write(bad, noise())
    bad.write_bytes(damage(bad.read_bytes()))
    # When the folder is loaded, then the error names the file
    with pytest.raises(BadDataset, match=r"1 file cannot be read as an image: train/cats/bad\.png \("):
        load_dataset(tmp_path, "pets")


def test_all_damaged_files_are_named_in_one_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    # Given more damaged files than an error can list, in both splits
    write(tmp_path / "pets/train/cats/good.png", noise())
    for split, count in (("train", NAMED_FILES), ("test", 5)):
        for i in range(count):
            (tmp_path / f"pets/{split}/cats").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"pets/{split}/cats/bad{i:02d}.png").write_bytes(b"no image")
    with pytest.raises(BadDataset) as caught:
        load_dataset(tmp_path, "pets")
    assert re.search(r"25 files cannot be read as an image: train/cats/bad00\.png .* and 5 more", str(caught.value))
    assert "by on_bad_file=skip" in str(caught.value)


def test_damaged_files_are_skipped_on_request(tmp_path: Path) -> None:
    # Given a damaged file between two good ones, which a first run has read and cached
    for i, name in enumerate(("train/cats/1.png", "train/dogs/3.png", "test/dogs/4.png"), 1):
        write(tmp_path / "pets" / name, solid(32, 32, (i, i, i)))
    (tmp_path / "pets/train/dogs/2.png").write_bytes(b"no image")
    for _ in range(2):
        dataset = load_dataset(tmp_path, "pets", on_bad_file="skip", cache=tmp_path / "cache")
        test = load_test_split(tmp_path, "pets", dataset.classes, cache=tmp_path / "cache")
        # Then the others keep their labels, and the report names the file
        assert (values_of(dataset.images), dataset.labels.tolist()) == ([1, 2], [0, 1])
        assert (values_of(test.images), test.labels.tolist()) == ([3], [1])
        assert dataset.report is not None
        assert [file.path for file in dataset.report.damaged] == ["train/dogs/2.png"]
    # And without the request, the cached data set is refused
    with pytest.raises(BadDataset, match=r"train/dogs/2\.png"):
        load_dataset(tmp_path, "pets", cache=tmp_path / "cache")


def test_a_class_of_which_no_file_can_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "pets/train/cats/1.png", noise())
    write(tmp_path / "pets/train/dogs/1.png", noise())
    (tmp_path / "pets/train/dogs/1.png").write_bytes(b"no image")
    with pytest.raises(BadDataset, match="no image of the classes 'dogs' can be read"):
        load_dataset(tmp_path, "pets", on_bad_file="skip")


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(deadline=None)
def test_an_image_with_one_wrong_byte_is_read_or_named(position: float, value: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pets/train/cats/bad.png"
        write(path, noise())
        data = bytearray(path.read_bytes())
        data[33 + int(position * (len(data) - 33))] = value  # beyond the header, which would change the size
        path.write_bytes(data)
        try:
            assert load_dataset(Path(folder), "pets").images.shape == (1, 3, 32, 32)
        except BadDataset as error:
            assert "train/cats/bad.png" in str(error)  # noqa: PT017 - either outcome is correct


def test_a_damaged_file_whose_name_is_not_utf_8_is_named_in_a_message_that_can_be_sent(tmp_path: Path) -> None:
    write(tmp_path / "pets/train/cats/1.png", noise())
    Path(os.fsdecode(bytes(tmp_path) + b"/pets/train/cats/caf\xe9.png")).write_bytes(b"not an image")
    with pytest.raises(BadDataset) as caught:
        load_dataset(tmp_path, "pets")
    line = FailureLine(reason=Reason.BAD_CONFIG, error=str(caught.value))
    assert r"cannot be read as an image: train/cats/caf\xe9.png (" in line.error
    assert parse_line(line.model_dump_json()) == line


# --- the test split ------------------------------------------------------------------------------------------------


def test_test_labels_follow_the_class_names_of_the_training_split(tmp_path: Path) -> None:
    # Given a test split that lacks the first training class
    for path in ("train/ants", "train/bees", "train/cats", "test/bees", "test/cats"):
        write(tmp_path / "pets" / path / "1.png", noise())
    test = load_test_split(tmp_path, "pets", load_dataset(tmp_path, "pets").classes)
    assert test.classes == ("ants", "bees", "cats")
    assert test.labels.tolist() == [1, 2]


def test_test_images_of_a_class_that_was_not_trained_are_refused_by_its_name(tmp_path: Path) -> None:
    for path in ("train/bees", "train/cats", "test/bees", "test/cats"):
        write(tmp_path / "pets" / path / "1.png", noise())
    with pytest.raises(BadDataset, match=r"classes that were not trained: 'cats'; the training classes are 'bees'"):
        load_test_split(tmp_path, "pets", ("bees", "ants"))


def test_a_data_set_without_a_test_split_says_where_its_images_belong(tmp_path: Path) -> None:
    write(tmp_path / "pets/train/cats/1.png", noise())
    assert not has_test_split(tmp_path, "pets")
    with pytest.raises(BadDataset, match=r"pets has no test split; put images into .*pets/test/<class>"):
        load_test_split(tmp_path, "pets", ("cats",))


def test_without_splits_the_held_out_images_are_the_test_split(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path / f"pets/cats/{i}.png", solid(32, 32, (i, i, i)))
    train, test = load_dataset(tmp_path, "pets"), load_test_split(tmp_path, "pets", ("cats",))
    assert has_test_split(tmp_path, "pets")
    assert (len(train), len(test)) == (9, 1)
    assert sorted(values_of(train.images) + values_of(test.images)) == list(range(10))


# --- progress and the cache ----------------------------------------------------------------------------------------


def test_loading_reports_every_file(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"pets/train/cats/{i}.png", noise())
    progress: list[tuple[int, int]] = []
    load_dataset(tmp_path, "pets", on_progress=lambda count, total: progress.append((count, total)))
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_a_run_sends_its_progress_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a data set that takes longer to read than the interval between two events
    monkeypatch.setattr("services.trainer.data.progress.LOADING_EVERY_S", 0.0)
    for i in range(3):
        write(tmp_path / f"pets/train/cats/{i}.png", noise())
    events = EventLog()
    load_dataset(tmp_path, "pets", on_progress=loading_progress(events))
    assert events == [("loading", f"loading: {count} of 3 files") for count in (1, 2, 3)]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data set of two images, which a first load has cached in `cache`."""
    write(tmp_path / "pets/train/cats/1.png", solid(32, 32, (1, 1, 1)))
    write(tmp_path / "pets/train/dogs/1.png", solid(32, 32, (2, 2, 2)))
    assert load_cached(tmp_path) == ([1, 2], 2)
    return tmp_path


def load_cached(root: Path) -> tuple[list[int], int]:
    """The pixel values of the data set, and how many files were decoded."""
    decoded: list[int] = []
    dataset = load_dataset(root, "pets", cache=root / "cache", on_progress=lambda count, _: decoded.append(count))
    return values_of(dataset.images), len(decoded)


def cached_files(root: Path) -> list[Path]:
    return list((root / "cache").rglob("*.npy"))


def test_a_data_set_is_decoded_once(pets: Path) -> None:
    assert load_cached(pets) == ([1, 2], 0)


@pytest.mark.parametrize("change", ["replaced", "touched", "added", "renamed"])
def test_a_data_set_whose_files_change_is_decoded_again(pets: Path, change: str) -> None:
    file = pets / "pets/train/cats/1.png"
    expected = [1, 2]
    if change == "replaced":
        write(file, solid(40, 32, (9, 9, 9)))
        expected = [2, 9]
    elif change == "touched":
        os.utime(file, ns=(0, 0))
    elif change == "added":
        write(pets / "pets/train/cats/2.png", solid(32, 32, (7, 7, 7)))
        expected = [1, 2, 7]
    else:
        file.rename(file.with_name("0.png"))
    assert load_cached(pets) == (expected, 3 if change == "added" else 2)
    # And only the new content stays in the cache
    assert load_cached(pets) == (expected, 0)
    assert len(cached_files(pets)) == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"something else"])
def test_a_damaged_cache_is_replaced(pets: Path, damage: bytes) -> None:
    (file,) = cached_files(pets)
    file.write_bytes(damage)
    assert load_cached(pets) == ([1, 2], 2)
    assert load_cached(pets) == ([1, 2], 0)


def test_both_splits_are_decoded_together(pets: Path) -> None:
    write(pets / "pets/test/cats/1.png", solid(32, 32, (5, 5, 5)))
    test = load_dataset(pets, "pets", "test", cache=pets / "cache")
    assert values_of(test.images) == [5]
    assert load_cached(pets) == ([1, 2], 0)


# --- CIFAR-10 -----------------------------------------------------------------------------------------------------


def test_cifar10_is_the_published_one(cifar10_root: Path) -> None:
    train, test = load_dataset(cifar10_root, "cifar10"), load_dataset(cifar10_root, "cifar10", "test")
    assert train.classes == test.classes == CIFAR10_CLASSES
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    # The first training image is a frog whose first pixel is a dark blue-grey; the first test image is a cat.
    assert train.classes[train.labels[0]] == "frog"
    assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    assert test.classes[test.labels[0]] == "cat"
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damaged", ["data_batch_1", "batches.meta"])
def test_cifar10_with_one_wrong_byte_is_refused(cifar10_root: Path, tmp_path: Path, split: Split, damaged: str) -> None:
    # Given the real data set with one wrong byte in one file
    folder = linked_cifar10(cifar10_root, tmp_path, without=damaged)
    data = bytearray((cifar10_root / "cifar10" / CIFAR10_FOLDER / damaged).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / damaged).write_bytes(data)
    # When it is loaded, then the error names the problem and the remedy
    with pytest.raises(BadDataset, match=r"integrity check.*delete .* to download it again"):
        load_dataset(tmp_path, "cifar10", split)


def test_cifar10_with_a_file_missing_is_refused(cifar10_root: Path, tmp_path: Path) -> None:
    linked_cifar10(cifar10_root, tmp_path, without="test_batch")
    with pytest.raises(BadDataset, match="integrity check"):
        load_dataset(tmp_path, "cifar10")


# --- the order of images ------------------------------------------------------------------------------------------

sizes, seeds = st.integers(1, 60), st.integers(0, 2**63 - 1)


@given(sizes, seeds, st.integers(0, 2**40))
@settings(deadline=None)
def test_each_epoch_samples_every_image_once(size: int, seed: int, epoch: int) -> None:
    order = Sampler(size, seed).batch(epoch * size, size)
    assert sorted(order.tolist()) == list(range(size))


@given(sizes, seeds, st.lists(st.integers(1, 40), min_size=1, max_size=8))
@settings(deadline=None)
def test_batches_of_any_size_follow_the_same_sequence(size: int, seed: int, counts: list[int]) -> None:
    expected_order = Sampler(size, seed).batch(0, sum(counts)).tolist()
    sampler, pieces = Sampler(size, seed), list[int]()
    for count in counts:
        pieces += sampler.batch(len(pieces), count).tolist()
    assert pieces == expected_order


@given(sizes, seeds, st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_batch_depends_on_its_position_only(size: int, seed: int, nimg: int, other: int) -> None:
    # Given a sampler that was used at another position, and a fresh one
    used, fresh = Sampler(size, seed), Sampler(size, seed)
    used.batch(other, 5)
    torch.rand(1)  # which advances torch's own random state
    # Then both return the same batch
    assert torch.equal(used.batch(nimg, 5), fresh.batch(nimg, 5))


@given(seeds, seeds)
@settings(deadline=None)
def test_other_seeds_and_other_epochs_have_another_order(seed: int, other: int) -> None:
    size = 1000  # two of 1000! orders are never the same by chance
    first = Sampler(size, seed).batch(0, size)
    assert torch.equal(first, Sampler(size, other).batch(0, size)) == (seed == other)
    assert not torch.equal(first, Sampler(size, seed).batch(size, size))


def test_moving_a_data_set_keeps_its_content() -> None:
    dataset = ImageDataset(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    moved = dataset.to(torch.device("meta"))
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")
    assert (len(moved), moved.classes) == (2, ("a", "b"))


# ------------------------------------------------------------------------------------------------------------------


def linked_cifar10(root: Path, tmp_path: Path, *, without: str) -> Path:
    """A data set of links to the real files, except one."""
    folder = tmp_path / "cifar10" / CIFAR10_FOLDER
    folder.mkdir(parents=True)
    for file in (root / "cifar10" / CIFAR10_FOLDER).iterdir():
        if file.name != without:
            (folder / file.name).symlink_to(file)
    return folder


def values_of(image: torch.Tensor) -> list[int]:
    return sorted(set(image.flatten().tolist()))


def solid(width: int, height: int, color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def load_one(tmp_path: Path, image: Image.Image) -> torch.Tensor:
    write(tmp_path / "pets/train/cats/1.png", image)
    return load_dataset(tmp_path, "pets").images[0]
