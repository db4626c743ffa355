"""What the trainer's tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks of eight channels are too little to share, and threads wait long for each other on busy cores."""
    torch.set_num_threads(1)
