"""Processes that are killed outright, or told to leave, in the middle of a job."""

from __future__ import annotations

import os
import random
import signal

import pytest

from tests.drills.harness import RUN, Kiln, is_gone, stopped
from tests.drills.report import Drill
from tests.processes import wait_for


@pytest.mark.slow_drill
def test_kill_9_the_trainer_mid_epoch(kiln: Kiln, drill: Drill) -> None:
    """About 90 s.

    Invariant: weights and metrics are those of a run that nobody disturbed, bit for bit, however often it is killed.
    Faults injected: SIGKILL to the trainer at two random positions of the run, in two attempts.
    """
    job_id = kiln.submit(RUN)
    first, second = sorted(random.uniform(0.05, 0.75) for _ in range(2))

    for share in (first, second):
        kiln.wait_until_training(job_id, share)
        os.kill(kiln.worker.trainer(), signal.SIGKILL)
        wait_for(lambda: kiln.events(job_id).count("crashed"), lambda n: n == (1 if share == first else 2))

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (3, 2)
    assert kiln.events(job_id).count("resumed") == 2
    kiln.assert_nothing_shows(job_id, RUN)
    drill.record("kill -9 the trainer mid-epoch", 2, detail=f"at {first:.0%} and {second:.0%}")
