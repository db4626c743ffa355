"""Full disks and damaged checkpoints. The full disk is simulated by a limit on the size of files."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.drills.harness import RUN, Kiln
from tests.drills.report import Drill

pytestmark = pytest.mark.timeout(900)


@contextmanager
def full_disk(pid: int, room_bytes: int = 256) -> Iterator[None]:
    """The kernel refuses this process, midway through a write, to make any file longer than that."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.slow_drill
@pytest.mark.parametrize("artifact", ["checkpoint", "sample"])
def test_the_disk_is_full_for_a_while(kiln: Kiln, drill: Drill, artifact: str) -> None:
    """About 25 s each.

    Invariant: training continues with a warning; when there is space again everything is written again, and the
    outcome is the same.
    Faults injected: no space for the trainer's files until it has failed to write a checkpoint or a sample grid.
    Broken by hand: services/trainer/runs/recorder.py: `_tolerate_full_disk` raises, for the checkpoint and for the
    sample -> the job ends without a warning
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.3)

    with full_disk(kiln.worker.trainer()):
        kiln.wait_for_event(job_id, "warning", containing=artifact)

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (1, 0)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record(f"disk full in {artifact}", kiln.events(job_id).count("warning"))


@pytest.mark.slow_drill
def test_the_disk_is_full_during_export(kiln: Kiln, drill: Drill) -> None:
    """About 45 s.

    Invariant: the job ends `lost`, reason `disk_full`, and there is no partial model; resumed when there is space, it
    continues from its checkpoint, and the outcome is the same.
    Faults injected: no space for the trainer's files from the last third of the run to its end.
    Broken by hand: shared/errors.py: EFBIG left out of DISK_FULL -> `failed`, reason `error`
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.6)

    with full_disk(kiln.worker.trainer()):
        job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason, job.model_id) == ("lost", "disk_full", None)
    assert kiln.api.http.get(f"/models/tiny-{job_id}").status_code == 404

    assert kiln.request(job_id, "resume").status_code == 202
    job = kiln.wait(job_id, lambda job: job.status == "succeeded" or (job.is_over and job.attempt == 2))
    assert "resumed" in kiln.events(job_id)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("disk full in export", 1)


@pytest.mark.slow_drill
def test_the_disk_is_full_during_publishing(kiln: Kiln, drill: Drill) -> None:
    """About 45 s.

    Invariant: the job ends `lost`, reason `disk_full`, no model exists; resumed when there is space, it has the same
    outcome.
    Faults injected: no space for the worker's own files while it publishes.
    Broken by hand: services/trainer/worker/supervisor.py: `Reason.WORKER_LOST` whatever the error -> times out
    waiting for its end
    """
    job_id = kiln.submit(RUN)
    worker = kiln.worker
    worker.trainer()  # started before the limit, so it does not inherit it

    with full_disk(worker.pid):
        job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason, job.model_id) == ("lost", "disk_full", None)
    assert kiln.api.http.get(f"/models/tiny-{job_id}").status_code == 404

    assert kiln.request(job_id, "resume").status_code == 202
    kiln.wait(job_id, lambda job: job.status == "succeeded" or (job.is_over and job.attempt == 2))
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("disk full in publishing", 1)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.slow_drill
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_the_newest_checkpoint_is_damaged(kiln: Kiln, drill: Drill, damage: Callable[[Path], None]) -> None:
    """About 35 s each.

    Invariant: the previous one is loaded, with a warning that names the damaged one; the outcome is the same.
    Faults injected: the newest checkpoint of a paused job cut short, with one bit flipped, and emptied.
    Broken by hand: services/trainer/runs/checkpoint.py: SHA-256 not compared in `unpack` -> the flipped bit is loaded,
    without a warning
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.2)
    kiln.request(job_id, "pause")
    kiln.wait_for_status(job_id, "paused")
    older, newest = kiln.checkpoints(job_id)

    damage(newest)
    kiln.request(job_id, "resume")

    job = kiln.wait_until_over(job_id)
    (warning,) = [event for event in kiln.store.events(job_id) if event.kind == "warning"]
    assert newest.name in warning.message
    (resumed,) = [event for event in kiln.store.events(job_id) if event.kind == "resumed"]
    assert f"-{resumed.data['nimg']:012d}" in older.stem
    assert job.crashes == 0
    kiln.assert_same_outcome(job_id, RUN)
    words: dict[Callable[[Path], None], str] = {truncate: "truncated", flip_a_bit: "bit-flipped", empty: "empty"}
    drill.record(f"newest checkpoint {words[damage]}", 1)
