"""Where a worker finds a data set: a folder, or its own copy of a pushed one."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.trainer.data.datasets import load_dataset
from services.trainer.data.pushed import locate_dataset
from shared.datasets.report import report
from shared.errors import EnvironmentFailed
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.datasets import PushedDataset, PushedDatasets, new_version, pack
from tests.processes import write_color_dataset


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", datasets=tmp_path / "datasets")


def pushed(settings: Settings) -> PushedDatasets:
    return PushedDatasets(ArtifactStore(settings.artifact_url))


def push(settings: Settings, name: str, folder: Path) -> PushedDataset:
    """Publishes a folder of images as the API does."""
    settings.data.mkdir(exist_ok=True)
    archive = settings.data / "archive.tar"
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.png")]
    dataset = PushedDataset(
        name=name, display_name=name, pushed_at=datetime.now(UTC), digest=pack(folder, names, archive),
        size_bytes=archive.stat().st_size, version=new_version(), report=report(folder),
    )  # fmt: skip
    pushed(settings).publish(dataset, archive, b"preview")
    return dataset


@pytest.fixture
def colors(settings: Settings, tmp_path: Path) -> Path:
    """A folder of images; the same images are pushed as `colors`."""
    write_color_dataset(tmp_path, per_class=3)
    push(settings, "colors", tmp_path / "colors")
    return tmp_path / "colors"


def copies(settings: Settings) -> list[str]:
    cache = settings.data / "cache" / "datasets"
    return sorted(str(path.relative_to(cache)) for path in cache.glob("*/*/*"))


def test_a_pushed_data_set_has_the_images_of_its_folder(settings: Settings, colors: Path) -> None:
    folder = locate_dataset("colors", settings)

    assert folder.name == "colors"
    copy, original = load_dataset(folder.parent, folder.name), load_dataset(colors.parent, colors.name)
    assert copy.digest == original.digest
    assert (copy.classes, len(copy)) == (("blue", "red"), 6)


def test_it_is_unpacked_once(settings: Settings, colors: Path) -> None:
    first = locate_dataset("colors", settings)
    stamp = (first / "train").stat()

    again = locate_dataset("colors", settings)

    assert again == first
    assert (again / "train").stat().st_ino == stamp.st_ino
    assert not list((settings.data / "cache" / "datasets").glob(".unfinished-*"))


def test_processes_that_start_together_share_one_copy(settings: Settings, colors: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        folders = list(pool.map(locate_dataset, ["colors"] * 4, [settings] * 4))

    assert len(set(folders)) == 1
    assert len(copies(settings)) == 1
    assert len(load_dataset(folders[0].parent, folders[0].name)) == 6


def test_a_new_version_replaces_the_copy_of_the_old_one(settings: Settings, colors: Path) -> None:
    before = locate_dataset("colors", settings)
    (colors / "train" / "red" / "000.png").unlink()
    push(settings, "colors", colors)

    after = locate_dataset("colors", settings)

    assert len(load_dataset(after.parent, after.name)) == 5
    assert after != before
    assert not before.exists()


def test_the_copy_of_a_deleted_data_set_is_removed_with_the_next_one(settings: Settings, colors: Path) -> None:
    locate_dataset("colors", settings)
    pushed(settings).delete("colors")
    push(settings, "others", colors)

    locate_dataset("others", settings)

    assert [copy.partition("/")[0] for copy in copies(settings)] == ["others"]


def test_an_interrupted_unpacking_is_not_taken_for_a_copy(
    settings: Settings, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(store: PushedDatasets, dataset: PushedDataset, folder: Path, scratch: Path) -> None:
        (folder / "train" / "red").mkdir(parents=True)
        raise OSError("the power is cut")

    with monkeypatch.context() as patch:
        patch.setattr(PushedDatasets, "unpack", half)
        with pytest.raises(OSError, match="power"):
            locate_dataset("colors", settings)

    folder = locate_dataset("colors", settings)
    assert len(load_dataset(folder.parent, folder.name)) == 6


def test_a_damaged_archive_is_a_fault_of_the_environment(settings: Settings, colors: Path) -> None:
    (archive,) = (settings.data / "artifacts" / "datasets" / "colors").glob("*.tar")
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")

    with pytest.raises(EnvironmentFailed, match=r"data set colors does not match its digest; push it again"):
        locate_dataset("colors", settings)


def test_other_data_sets_are_folders(settings: Settings) -> None:
    (settings.dataset_root / "my photos").mkdir(parents=True)

    assert locate_dataset("my-photos", settings) == settings.dataset_root / "my photos"
    assert locate_dataset("cifar10", settings) == settings.dataset_root / "cifar10"
    assert locate_dataset("absent", settings) == settings.dataset_root / "absent"
