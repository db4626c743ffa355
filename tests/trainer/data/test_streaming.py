"""Training on a data set that does not fit on the device: the same images in the same order, and bounded memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from services.trainer.data.cache import PackedCache
from services.trainer.data.datasets import ImageDataset, ignore_progress, load_dataset
from services.trainer.data.device_memory import image_limit_bytes
from services.trainer.data.packing import Preprocessing
from services.trainer.data.streaming import ImageStream
from services.trainer.runs.per_class import images_of
from services.trainer.training import loop
from services.trainer.training.state import TrainState
from shared.datasets.layouts import scan
from tests.trainer.small import CPU, random_images, small_config

IMAGE_BYTES = 3 * 32 * 32


def pixels(count: int = 50) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return random_images(count).images.numpy()


@pytest.mark.parametrize("resident", [0, 20, 49])
def test_a_stream_brings_the_images_at_the_given_indices_in_their_order(resident: int) -> None:
    # Given images of which some are on the device
    images = pixels()
    stream = ImageStream(images, CPU, resident * IMAGE_BYTES + 100)
    assert len(stream.resident) == resident
    # Then batches hold the images of their indices, announced or not
    for seed in range(5):
        indices = torch.randint(50, (16,), generator=torch.Generator().manual_seed(seed))
        if seed % 2:
            stream.prefetch(indices)
        assert torch.equal(stream.take(indices), torch.from_numpy(images)[indices])


def test_a_batch_other_than_the_announced_one_is_read_anew() -> None:
    images = pixels()
    stream = ImageStream(images, CPU, 0)
    stream.prefetch(torch.arange(8))
    assert torch.equal(stream.take(torch.arange(8, 16)), torch.from_numpy(images[8:16]))


def test_a_streamed_data_set_has_the_same_digest_and_batches() -> None:
    dataset = random_images()
    streamed = dataset.to(CPU, 10 * IMAGE_BYTES)
    assert (streamed.stream is not None, dataset.to(CPU, 100 * IMAGE_BYTES).stream) == (True, None)
    assert streamed.digest == dataset.digest
    assert [len(images) for images, _ in streamed.batches(30)] == [30, 30, 30, 10]
    own, expected = images_of(streamed, 3), images_of(dataset, 3)
    assert own.digest == expected.digest
    assert torch.equal(own.gather(torch.tensor([4, 1])), expected.gather(torch.tensor([4, 1])))


@pytest.mark.parametrize(
    "overrides", [{}, {"n_critic": 3}, {"flip": True, "crop_padding": 2}, {"balance_classes": True}]
)
def test_training_on_streamed_images_gives_the_same_weights_to_the_bit(overrides: dict[str, Any]) -> None:
    config = small_config(total_nimg=240, tick_nimg=80, snapshot_nimg=10**6, **overrides)

    def weights(dataset: ImageDataset) -> list[torch.Tensor]:
        state = TrainState(config, 10, CPU)
        assert loop.train(state, dataset, list[loop.Message]().append, lambda: None) == "done"
        return [value for network in state.networks().values() for value in network.state_dict().values()]

    resident = weights(random_images())
    for limit in (0, 40):
        streamed = weights(random_images().to(CPU, limit * IMAGE_BYTES))
        assert all(map(torch.equal, resident, streamed))


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40, 40), (i, i, 0)).save(folder / f"{i:03d}.png")


def test_a_cached_data_set_is_memory_mapped_and_read_by_pages(tmp_path: Path) -> None:
    write_images(tmp_path / "pets/train/cats", 30)
    load_dataset(tmp_path, "pets", cache=tmp_path / "cache")
    dataset = load_dataset(tmp_path, "pets", cache=tmp_path / "cache").to(CPU, 0)
    assert isinstance(dataset.file, np.memmap)
    assert dataset.stream is not None
    # When pages are released, then later batches are the same
    before = dataset.gather(torch.tensor([7, 3]))
    dataset.stream.release_pages(1 << 40)
    assert torch.equal(dataset.gather(torch.tensor([7, 3])), before)
    assert before[:, 0, 0, 0].tolist() == [7, 3]


def test_a_run_keeps_its_images_when_another_run_replaces_the_cached_file(tmp_path: Path) -> None:
    write_images(tmp_path / "pets/train/cats", 3)
    dataset = load_dataset(tmp_path, "pets", cache=tmp_path / "cache")
    Image.new("RGB", (40, 40), (99, 99, 0)).save(tmp_path / "pets/train/cats/100.png")
    assert len(load_dataset(tmp_path, "pets", cache=tmp_path / "cache")) == 4
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_full_disk_means_that_the_images_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "pets/train/cats", 3)

    def fail(cache: PackedCache, on_progress: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackedCache, "write", fail)
    dataset = load_dataset(tmp_path, "pets", cache=tmp_path / "cache")
    assert (dataset.images[:, 0, 0, 0].tolist(), dataset.file) == ([0, 1, 2], None)


def test_an_unfinished_file_is_removed_with_the_next_content_but_not_while_it_is_written(tmp_path: Path) -> None:
    write_images(tmp_path / "pets/train/cats", 3)
    load_dataset(tmp_path, "pets", cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache/packed").iterdir()
    for name, age_s in (("new.part", 0.0), ("old.part", 4000.0)):
        (folder / name).touch()
        at = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (at, at))
    PackedCache(tmp_path / "cache", scan(tmp_path / "pets"), Preprocessing()).write(ignore_progress)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".npy", ".part"]
    assert (folder / "new.part").exists()


def test_images_may_take_half_of_the_free_memory_or_as_much_as_is_set() -> None:
    assert image_limit_bytes(CPU, 1.5) == 1_500_000_000
    assert image_limit_bytes(CPU, 0) == 0
    assert image_limit_bytes(CPU, None) > 100_000_000
