"""Data sets that are missing or changed when a job resumes."""

from __future__ import annotations

import pytest

from tests.drills.harness import RUN, Kiln
from tests.drills.report import Drill

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow_drill
def test_a_data_set_is_gone_and_back(kiln: Kiln, drill: Drill) -> None:
    """About 60 s.

    Invariant: the job ends `lost`, reason `environment`, with the path or the classes in its error, and keeps its
    checkpoint; with the data back it resumes, and the outcome is the same.
    Faults injected: the data set of a paused job moved away, then back with a renamed class folder, then restored.
    Broken by hand: services/trainer/commands/train.py: `has_checkpoint` ignored in `reason_of` -> `failed`, reason
    `bad_config`, and no way to resume
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.2)
    kiln.request(job_id, "pause")
    kiln.wait_for_status(job_id, "paused")
    checkpoints = kiln.checkpoints(job_id)
    folder, elsewhere = kiln.datasets / "colors", kiln.folder / "unmounted"

    folder.rename(elsewhere)
    error = resume_and_lose(kiln, job_id)
    assert f"no data set at {folder / 'train'}" in error

    elsewhere.rename(folder)
    red, scarlet = folder / "train" / "red", folder / "train" / "scarlet"
    red.rename(scarlet)
    error = resume_and_lose(kiln, job_id)
    assert "missing 'red', new 'scarlet'" in error

    scarlet.rename(red)
    assert kiln.checkpoints(job_id) == checkpoints
    kiln.request(job_id, "resume")
    job = kiln.wait(job_id, lambda job: job.attempt == 4 and job.is_over)
    assert (job.status, job.crashes) == ("succeeded", 0)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("data set gone and back", 2)


def resume_and_lose(kiln: Kiln, job_id: str) -> str:
    """Resumes the job and waits until it is lost again; returns its error."""
    attempt = kiln.job(job_id).attempt + 1
    assert kiln.request(job_id, "resume").status_code == 202
    job = kiln.wait(job_id, lambda job: job.attempt == attempt and job.is_over)
    assert (job.status, job.reason) == ("lost", "environment"), job.error
    return job.error or ""
