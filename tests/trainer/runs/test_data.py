"""Loading the images of a run: by its config, and with events that say what was read and what was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.trainer.runs.data import LISTED_FILES, announce, load_images
from shared.errors import BadDataset
from shared.settings import Settings
from tests.trainer.small import CPU, small_config


class Events(list[tuple[str, str, dict[str, Any]]]):
    def __call__(self, kind: str, message: str, **data: Any) -> None:
        self.append((kind, message, data))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a data set of 20 cats and three dogs, and two files that are damaged or no images."""
    for label, count in (("cats", 20), ("dogs", 3)):
        (tmp_path / f"pets/{label}").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40, 30), (i, ord(label[0]), 0)).save(tmp_path / f"pets/{label}/{i}.png")
    (tmp_path / "pets/dogs/damaged.jpg").write_bytes(b"no image")
    (tmp_path / "pets/dogs/notes.txt").write_text("about dogs")
    return Settings(data=tmp_path / "data", datasets=tmp_path)


def test_the_event_of_the_start_has_the_report_and_warnings_follow(settings: Settings) -> None:
    config = small_config(on_bad_file="skip")
    events = Events()
    announce(load_images(config, "pets", settings, CPU), config, "CPU", events)
    assert [(kind, message) for kind, message, _ in events] == [
        ("started", "21 images of 2 classes, on CPU"),
        (
            "warning",
            "1 damaged file skipped: dogs/damaged.jpg (not an image in a format that Kiln reads, or its header is "
            "damaged)",
        ),
        (
            "warning",
            "2 of 24 images are held out for testing: in each class the tenth whose names have the smallest SHA-256",
        ),
    ]
    seen = json.loads(json.dumps(events[0][2]))["dataset"]
    assert (seen["layout"], seen["classes"], seen["resolutions"]) == ("<class>/*", ["cats", "dogs"], {"40x30": 23})
    assert seen["counts"] == {"train": {"cats": 18, "dogs": 3}, "test": {"cats": 2, "dogs": 0}}
    assert ([file["path"] for file in seen["damaged"]], seen["damaged_count"]) == (["dogs/damaged.jpg"], 1)
    assert ([file["path"] for file in seen["ignored"]], seen["ignored_count"]) == (["dogs/notes.txt"], 1)


def test_damaged_files_end_a_run_by_default(settings: Settings) -> None:
    with pytest.raises(BadDataset, match=r"1 file cannot be read as an image: dogs/damaged\.jpg"):
        load_images(small_config(), "pets", settings, CPU)


def test_an_event_lists_the_first_files_and_counts_all(settings: Settings) -> None:
    for i in range(LISTED_FILES + 7):
        (settings.dataset_root / f"pets/dogs/{i}.txt").write_text("about dogs")
    config, events = small_config(on_bad_file="skip"), Events()
    announce(load_images(config, "pets", settings, CPU), config, "CPU", events)
    seen = events[0][2]["dataset"]
    assert (len(seen["ignored"]), seen["ignored_count"]) == (LISTED_FILES, LISTED_FILES + 8)


def test_images_beyond_the_limit_of_the_device_are_streamed_and_an_event_says_so(settings: Settings) -> None:
    config, events = small_config(on_bad_file="skip"), Events()
    limited = settings.model_copy(update={"device_images_gb": 10 * 3 * 32 * 32 / 1e9})
    announce(load_images(config, "pets", limited, CPU), config, "CPU", events)
    assert events[-1][:2] == (
        "streaming",
        "10 of 21 images are on the device; the others are read from the disk while it trains",
    )
