"""Leases shorter than a worker's longest operation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.drills.harness import Kiln
from tests.drills.report import Drill
from tests.processes import small_overrides, wait_for

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow_drill
def test_a_lease_shorter_than_publishing(kiln: Kiln, drill: Drill) -> None:
    """About 20 s.

    Invariant: a working worker keeps the job: loading, exporting, exiting and publishing all renew the lease.
    Faults injected: a lease of one second, and a disk that hangs for three of them while the worker publishes.
    Broken by hand: services/trainer/worker/supervisor.py: no renewal in `_while_renewing` -> the lease expires
    meanwhile, a second attempt
    """
    kiln.replace_api(KILN_LEASE_S="1")
    kiln.replace_worker(KILN_LEASE_S="1")
    job_id = kiln.submit(small_overrides())

    with hanging_file(kiln.data / "work" / job_id / "export-1"):
        wait_for(lambda: "exporting" in kiln.events(job_id) and not kiln.trainers(), bool)
        before = kiln.job(job_id)
        assert before.lease_until is not None
        later = before.lease_until + timedelta(seconds=3)
        kiln.wait(job_id, lambda job: job.lease_until is None or job.lease_until > later)

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.attempt, job.fence, job.crashes) == ("succeeded", 1, 1, 0)
    drill.record("a lease shorter than publishing", 1)


@contextmanager
def hanging_file(folder: Path) -> Iterator[None]:
    """One of the files to publish is a pipe, so that reading it hangs until the block ends."""
    folder.mkdir(parents=True)
    pipe = folder / "hangs.bin"
    os.mkfifo(pipe)
    try:
        yield
    finally:
        with suppress(OSError):  # no reader
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        pipe.unlink()
