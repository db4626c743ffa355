"""Reasons of jobs that do not succeed: which error has which, and that a drill covers each."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from services.trainer.commands.train import reason_of
from shared.errors import BadConfig, BadDataset, Diverged, EnvironmentFailed, ParityFailed
from shared.jobs.record import LOST_REASONS, Reason

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
        (OSError(errno.EIO, "Input/output error"), Reason.ENVIRONMENT),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), Reason.ENVIRONMENT),
        (EnvironmentFailed("no GPU"), Reason.ENVIRONMENT),
        (ZeroDivisionError(), Reason.ERROR),
    ],
    ids=repr,
)
def test_each_error_of_the_trainer_has_a_reason(error: Exception, reason: Reason) -> None:
    assert reason_of(error) is reason


def test_once_a_checkpoint_exists_a_problem_of_the_data_can_be_resumed() -> None:
    assert reason_of(BadDataset("no data set at /mnt/pets"), has_checkpoint=True) in LOST_REASONS
    # But what no other machine or mount could repair stays a failure
    assert reason_of(Diverged("loss_d is nan"), has_checkpoint=True) not in LOST_REASONS
    assert reason_of(BadConfig("another config"), has_checkpoint=True) not in LOST_REASONS


def test_every_reason_is_seen_in_a_drill() -> None:
    text = "".join(path.read_text() for path in DRILLS.glob("test_*.py"))
    # No fault from outside causes a parity failure or a bug.
    inside = {Reason.PARITY, Reason.ERROR}
    assert {reason for reason in Reason if f'"{reason}"' in text} == set(Reason) - inside
