"""Fixtures for the tests of the trainer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.trainer.small import small_classifier


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread: networks of eight channels are too small to divide, and threads wait for each other on busy cores."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def shipped_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained classifier over `class-0` to `class-9`; its export takes seconds, so it is made once."""
    folder = tmp_path_factory.mktemp("classifier")
    small_classifier(folder)
    return folder


@pytest.fixture
def classifier_folder(shipped_classifier: Path, tmp_path: Path) -> Path:
    """A copy of the classifier's folder, which the test may damage."""
    return Path(shutil.copytree(shipped_classifier, tmp_path / "classifier"))
