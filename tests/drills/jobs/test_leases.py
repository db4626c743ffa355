"""Leases shorter than what a worker does in one go."""

from __future__ import annotations

import pytest

from tests.drills.harness import Kiln
from tests.drills.report import Drill
from tests.processes import small_overrides

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow_drill
def test_a_lease_shorter_than_export_exit_and_publishing(kiln: Kiln, drill: Drill) -> None:
    """About 20 s.

    Invariant: whoever works keeps the job: import, export, the trainer's exit and publishing all renew the lease.

    Faults injected: a lease of one second, which is shorter than any of them on a slow machine.
    """
    kiln.replace_api(KILN_LEASE_S="1")
    kiln.replace_worker(KILN_LEASE_S="1")
    job_id = kiln.submit(small_overrides())

    job = kiln.wait_until_over(job_id)

    assert (job.status, job.attempt, job.fence, job.crashes) == ("succeeded", 1, 1, 0)
    drill.record("a lease shorter than export and exit", 1)
