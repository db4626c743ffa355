"""Why a job ended: what a trainer calls each error, and that every reason there is has been seen in a drill."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from services.trainer.commands.train import reason_of
from shared.errors import BadConfig, BadDataset, Diverged, ParityFailed
from shared.jobs.record import Reason

DRILLS = Path(__file__).parents[2] / "drills" / "jobs"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Diverged("loss_d is nan"), Reason.DIVERGED),
        (ParityFailed("they differ by 1"), Reason.PARITY),
        (BadConfig("another config"), Reason.BAD_CONFIG),
        (BadDataset("no pictures"), Reason.BAD_CONFIG),
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Reason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Reason.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Reason.DISK_FULL),
        (OSError(errno.EIO, "Input/output error"), Reason.ERROR),
        (ZeroDivisionError(), Reason.ERROR),
    ],
    ids=repr,
)
def test_an_error_of_the_trainer_is_told_by_its_reason(error: Exception, reason: Reason) -> None:
    assert reason_of(error) is reason


def test_every_reason_is_seen_in_a_drill() -> None:
    text = "".join(path.read_text() for path in DRILLS.glob("test_*.py"))
    # A graph that differs from its network, and a bug, are not to be had by a fault from outside.
    inside = {Reason.PARITY, Reason.ERROR}
    assert {reason for reason in Reason if f'"{reason}"' in text} == set(Reason) - inside
