"""Processes that are killed, or shut down, in the middle of a job."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.drills.harness import ENDLESS, RUN, Kiln, is_gone
from tests.drills.report import Drill
from tests.processes import small_overrides, wait_for

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow_drill
def test_kill_9_the_trainer_mid_epoch(kiln: Kiln, drill: Drill) -> None:
    """About 60 s.

    Invariant: weights and metrics are those of an undisturbed run, bit for bit, however often it is killed.
    Faults injected: SIGKILL to the trainer at two random positions of the run, in two attempts.
    Broken by hand: services/trainer/training/state.py: `torch.set_rng_state(...)` left out -> series or weights differ
    """
    job_id = kiln.submit(RUN)
    shares = sorted(random.uniform(0.05, 0.75) for _ in range(2))

    for kills, share in enumerate(shares, start=1):
        kiln.wait_until_training(job_id, share)
        os.kill(kiln.worker.trainer(), signal.SIGKILL)
        kiln.wait_for_crashes(job_id, kills)

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (3, 2)
    assert kiln.events(job_id).count("resumed") == 2
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("kill -9 the trainer mid-epoch", 2, detail=" and ".join(f"at {share:.0%}" for share in shares))


@pytest.mark.slow_drill
def test_kill_9_the_trainer_during_a_checkpoint_write(kiln: Kiln, drill: Drill) -> None:
    """About 120 s.

    Invariant: a partial checkpoint is never read; the run resumes from the previous one, and the outcome is the same.
    Faults injected: SIGKILL to the trainer while the first bytes of a checkpoint lie in the folder and the last do not,
    until this was observed. (A write to a disk that is not full ends before a stopped process stops, but not before
    a killed one dies.)
    Broken by hand: shared/storage/artifacts.py: `_UNFINISHED = ".unfinished-"` with a prefix that listings show ->
    a partial checkpoint is loaded as the newest, with a warning
    """
    kiln.replace_worker(KILN_MAX_ATTEMPTS="100")
    job_id = kiln.submit(BULKY)
    kills, written = 0, ""
    while not written:
        kiln.wait_for_attempt(job_id, kills + 1)
        pid = kiln.worker.trainer()
        wait_for(lambda: kiln.checkpoints(job_id), bool)
        written = kill_in_a_checkpoint(kiln, job_id, pid)
        kills += 1
        kiln.wait_for_crashes(job_id, kills)

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (kills + 1, kills)
    assert "resumed" in kiln.events(job_id)
    assert "warning" not in kiln.events(job_id)
    kiln.assert_same_outcome(job_id, BULKY)
    drill.record("kill -9 the trainer during a checkpoint write", kills, detail=written)


# Large networks, whose checkpoints take a while to write, and a checkpoint after every step.
BULKY = RUN | {"g_channels": [256, 128, 64], "d_channels": [64, 128, 256], "total_nimg": 640, "tick_nimg": 80,
               "snapshot_nimg": 640, "checkpoint_every_s": 0}  # fmt: skip


def kill_in_a_checkpoint(kiln: Kiln, job_id: str, pid: int) -> str:
    """Kills the trainer while it writes a checkpoint. -> how many bytes it wrote; "" if the checkpoint was complete"""
    folder = kiln.data / "artifacts" / "jobs" / job_id / "checkpoints"
    before = set(folder.iterdir())
    while not (begun := [path for path in set(folder.iterdir()) - before if path.suffix != ".ckpt" and size(path)]):
        assert not is_gone(pid), "the trainer ended before a partial checkpoint was observed"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_gone(pid), bool)
    complete = size(kiln.checkpoints(job_id)[-1])
    partial = (path for path in begun if 0 < size(path) < 0.99 * complete)
    return next((f"{size(path):,} of {complete:,} bytes" for path in partial), "")


def size(path: Path) -> int:
    """Size in bytes; 0 if the file does not exist."""
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow_drill
def test_kill_9_the_worker_and_its_trainer(kiln: Kiln, drill: Drill) -> None:
    """About 30 s.

    Invariant: after the lease has expired another worker resumes the job from its checkpoint, and the outcome is the
    same.

    Faults injected: SIGKILL to the worker and its trainer at once, as when a container is killed.
    Broken by hand: shared/jobs/transitions.py: `is_lease_expired` returns False -> times out waiting for
    another attempt
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.1)

    kiln.worker.kill_tree()
    kiln.replace_worker()

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes, job.fence) == (2, 1, 2)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("kill -9 the worker (whole tree)", 1)


@pytest.mark.slow_drill
def test_kill_9_the_workers_main_process(kiln: Kiln, drill: Drill) -> None:
    """About 30 s.

    Invariant: the trainer dies with its worker, even if it hangs; another worker resumes the job.
    Faults injected: SIGSTOP to the trainer, then SIGKILL to the worker's main process alone.
    Broken by hand: services/trainer/commands/train.py: `die_with_parent` left out -> the trainer stays behind
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.1)
    orphan = kiln.worker.trainer()

    os.kill(orphan, signal.SIGSTOP)
    kiln.worker.kill()

    wait_for(lambda: is_gone(orphan), bool)
    kiln.replace_worker()
    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (2, 1)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("kill -9 the worker (main)", 2)


@pytest.mark.slow_drill
def test_kill_9_the_workers_child(kiln: Kiln, drill: Drill) -> None:
    """About 30 s.

    Invariant: the worker survives its child, counts a crash, and resumes the job.
    Faults injected: SIGKILL to the child while it loads, before its first message.
    Broken by hand: services/trainer/worker/supervisor.py: `crashes >= 1` in `_retry` -> lost at the first crash
    """
    job_id = kiln.submit(RUN)
    worker = kiln.worker.pid
    os.kill(kiln.worker.trainer(), signal.SIGKILL)

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (2, 1)
    assert (kiln.worker.pid, kiln.worker.is_alive) == (worker, True)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("kill -9 the worker (child)", 1)


@pytest.mark.slow_drill
def test_a_poison_job_ends_as_lost_and_the_next_one_runs(kiln: Kiln, drill: Drill) -> None:
    """About 40 s.

    Invariant: a job that crashes its worker each time ends `lost` after `max_attempts`; the next one is trained.
    Faults injected: SIGKILL to the worker and its trainer after each claim.
    Broken by hand: shared/jobs/transitions.py: `crashes >= max_attempts` never true in `expire` -> times out waiting
    for its end
    """
    poison = kiln.submit(ENDLESS)
    harmless = kiln.submit(small_overrides())

    attempts = kiln.settings().max_attempts
    for attempt in range(1, attempts + 1):
        kiln.wait_for_attempt(poison, attempt)
        kiln.worker.kill_tree()
        # The queue has no fixed order now: the harmless job may run first.
        kiln.replace_worker()

    job = kiln.wait_until_over(poison)
    assert (job.status, job.reason, job.attempt, job.crashes) == ("lost", "worker_lost", attempts, attempts)
    assert kiln.wait_until_over(harmless).status == "succeeded"
    drill.record("poison job (kills its worker each time)", attempts)


@pytest.mark.slow_drill
def test_a_worker_that_shuts_down_releases_its_job(kiln: Kiln, drill: Drill) -> None:
    """About 35 s.

    Invariant: SIGTERM -> checkpoint -> back to the queue -> another worker resumes; no crash is counted, and the
    outcome is the same.
    Faults injected: SIGTERM to the worker that trains, while another one is idle.
    Broken by hand: services/trainer/worker/supervisor.py: `self.stop.is_set()` left out of `_beat` -> the worker stays
    until the job is done
    """
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.1)
    leaving, other = kiln.worker, kiln.start_worker()

    leaving.shut_down()

    assert leaving.trainers() == []
    assert kiln.events(job_id)[-2:] in (["checkpoint", "handed_back"], ["handed_back", "starting"])
    job = kiln.wait(job_id, lambda job: job.attempt == 2)
    assert (job.worker or "").endswith(f"-{other.pid}")
    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (2, 0)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("worker shutdown by SIGTERM", 1)


def test_a_trainer_that_ignores_sigterm_is_killed(kiln: Kiln, drill: Drill) -> None:
    """Invariant: a cancel takes effect; no trainer stays behind, and the worker runs the next job.

    Faults injected: a stopped trainer, which SIGTERM does not reach, then a cancel.
    Broken by hand: services/trainer/worker/supervisor.py: `now_s >= self.kill_at_s` never true -> the trainer still
    runs when the test times out
    """
    worker = kiln.replace_worker(KILN_STOP_GRACE_S="1")
    job_id, next_id = kiln.submit(ENDLESS), kiln.submit(ENDLESS)
    kiln.wait_for_status(job_id, "running")
    deaf = worker.trainer()
    os.kill(deaf, signal.SIGSTOP)

    kiln.request(job_id, "cancel")

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason) == ("cancelled", "cancelled_by_user")
    assert is_gone(deaf)
    assert kiln.wait_for_status(next_id, "running").attempt == 1
    drill.record("trainer deaf to SIGTERM", 1)
