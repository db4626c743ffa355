"""Trainers that hang, raise, run out of memory or diverge, and wrong clocks."""

from __future__ import annotations

import os
import resource
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.drills.harness import ENDLESS, RUN, Kiln
from tests.drills.report import Drill
from tests.processes import ROOT, small_overrides

pytestmark = pytest.mark.timeout(900)

STALL_S = "45"  # longer than torch takes to load on a busy machine


@pytest.mark.slow_drill
def test_a_trainer_that_hangs_once(kiln: Kiln, drill: Drill) -> None:
    """About 90 s.

    Invariant: a trainer that sends nothing for KILN_STALL_S is killed; the job resumes from its checkpoint.
    Faults injected: SIGSTOP to the trainer, without SIGCONT.
    Broken by hand: services/trainer/worker/supervisor.py: `now_s >= self.stalled_at_s` never true -> times out
    waiting for its end
    """
    worker = kiln.replace_worker(KILN_STALL_S=STALL_S)
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.2)

    os.kill(worker.trainer(), signal.SIGSTOP)

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.crashes) == (2, 1)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record("trainer that hangs", 1)


@pytest.mark.slow_drill
def test_a_trainer_that_hangs_every_time(kiln: Kiln, drill: Drill) -> None:
    """About 120 s.

    Invariant: the job ends as `lost` with reason `stalled` after `max_attempts`; the worker runs the next one.
    Faults injected: SIGSTOP to each of its trainers, in two attempts.
    Broken by hand: services/trainer/worker/supervisor.py: `Reason.WORKER_LOST` for a stalled one -> another reason
    """
    worker = kiln.replace_worker(KILN_STALL_S=STALL_S, KILN_MAX_ATTEMPTS="2")
    job_id, next_id = kiln.submit(RUN), kiln.submit(RUN)
    for attempt in (1, 2):
        kiln.wait_for_attempt(job_id, attempt)
        os.kill(worker.trainer(), signal.SIGSTOP)
        kiln.wait_for_crashes(job_id, attempt)

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason, job.attempt) == ("lost", "stalled", 2)
    assert kiln.wait_for_status(next_id, "running").attempt == 1
    drill.record("trainer that hangs, every time", 2)


def test_a_trainer_that_raises(kiln: Kiln, drill: Drill) -> None:
    """Invariant: the job fails at the first attempt with its error, and the worker runs the next one.

    Faults injected: a data set with a damaged image file.
    Broken by hand: services/trainer/commands/train.py: TrainingFailed's own reason ignored -> reason `error`
    """
    broken = kiln.datasets / "broken" / "train" / "red"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "000.png").write_bytes(b"\x89PNG but not for long")

    job_id, next_id = kiln.submit(RUN, dataset="broken"), kiln.submit(RUN)

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason, job.attempt) == ("failed", "bad_config", 1)
    assert "000.png" in (job.error or "")
    assert kiln.wait_for_status(next_id, "running").attempt == 1
    drill.record("trainer that raises", 1)


@pytest.mark.slow_drill
def test_a_trainer_that_runs_out_of_memory(kiln: Kiln, drill: Drill) -> None:
    """About 30 s.

    Invariant: the job fails, reason `oom`, after one attempt; another one would need as much memory.
    Faults injected: a limit on the trainer's address space (RLIMIT_AS) 1 GiB above that of a small job, for a job
    whose first activation alone takes 2 GiB. (With a lower limit, an arena of the allocator may not fit; then the
    process crashes without a message, and the job is retried.)
    Broken by hand: services/trainer/commands/train.py: "can't allocate memory" not recognised -> reason `error`
    """
    small = kiln.submit(ENDLESS)
    kiln.wait_until_training(small)
    small_bytes = int(Path(f"/proc/{kiln.worker.trainer()}/statm").read_text().split()[0]) * resource.getpagesize()
    kiln.end_all_jobs()

    job_id = kiln.submit(ENDLESS | {"batch_size": 4096, "d_channels": [512, 8, 16]})
    limit = (small_bytes + (1 << 30), resource.RLIM_INFINITY)
    resource.prlimit(kiln.worker.trainer(), resource.RLIMIT_AS, limit)

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason, job.attempt) == ("failed", "oom", 1), job.error
    drill.record("trainer runs out of memory", 1)


def test_a_trainer_that_diverges(kiln: Kiln, drill: Drill) -> None:
    """Invariant: the job fails, reason `diverged`, names the loss, and publishes nothing.

    Faults injected: Adam without a second moment at a learning rate of 1.
    Broken by hand: services/trainer/training/loop.py: `isfinite` not checked in `close_tick` -> trains on; reason
    `error`, from the message that cannot be written
    """
    reckless = {"architecture": "resnet", "g_channels": [8, 8, 8, 8], "lr": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.0}
    job_id = kiln.submit(small_overrides(total_nimg=16_000, **reckless))

    job = kiln.wait_until_over(job_id)

    assert (job.status, job.reason, job.attempt) == ("failed", "diverged", 1)
    assert "loss" in (job.error or "")
    assert kiln.api.http.get(f"/models/tiny-{job_id}").status_code == 404
    drill.record("trainer that diverges", 1)


POISON = """
import sys
if "train" in sys.orig_argv:
    import torch
    from services.trainer.training.state import TrainState
    update = TrainState.update_ema
    def update_and_poison(state, batch_nimg):
        update(state, batch_nimg)
        if state.cur_nimg == 1600 and state.config.from_checkpoint is None:
            next(state.generator.parameters()).data.fill_(torch.nan)
    TrainState.update_ema = update_and_poison
"""


def test_a_diverged_run_keeps_its_checkpoints(kiln: Kiln, drill: Drill) -> None:
    """Invariant: the job fails, reason `diverged`, and its last checkpoints are good: a job from them succeeds.

    Faults injected: all weights of one layer become NaN between two ticks, while every iteration is saved.
    Broken by hand: services/trainer/training/loop.py: `check_finite` returns at once -> both kept checkpoints are NaN,
    and the second job diverges
    """
    (kiln.folder / "sitecustomize.py").write_text(POISON)
    kiln.replace_worker(PYTHONPATH=f"{kiln.folder}:{ROOT}")
    overrides = small_overrides(total_nimg=3200, tick_nimg=3200, snapshot_nimg=10**8, checkpoint_every_s=0.0)
    job_id = kiln.submit(overrides)

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.reason, job.attempt) == ("failed", "diverged", 1), job.error
    assert "after 1600 images" in (job.error or "")
    assert kiln.checkpoints(job_id)

    second_id = kiln.submit(overrides | {"from_checkpoint": job_id, "lr": 1e-5})
    resumed = kiln.wait_for_event(second_id, "resumed")
    assert "after 1,584 images" in resumed.message
    assert kiln.wait_until_over(second_id).status == "succeeded"
    drill.record("diverged run keeps its checkpoints", 1)


CAPTURE_ON_A_CPU = """
import sys
if "train" in sys.orig_argv:
    from dataclasses import replace
    from services.trainer.training import runtime
    choose = runtime.choose_runtime
    runtime.choose_runtime = lambda device, settings: replace(
        choose(device, settings), capture="-capture" not in settings.fast_paths
    )
"""


def test_a_capture_that_raises(kiln: Kiln, drill: Drill) -> None:
    """Invariant: the job warns, trains in the same attempt without a CUDA graph, and succeeds.

    Faults injected: a trainer that records its step as a CUDA graph on a machine without CUDA.
    Broken by hand: services/trainer/commands/train.py: `CaptureFailed` not caught in `_run_job` -> the job fails
    """
    (kiln.folder / "sitecustomize.py").write_text(CAPTURE_ON_A_CPU)
    kiln.replace_worker(PYTHONPATH=f"{kiln.folder}:{ROOT}")
    job_id = kiln.submit(small_overrides())

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.attempt, job.crashes) == ("succeeded", 1, 0), job.error
    kiln.wait_for_event(job_id, "warning", "could not be recorded as a CUDA graph")
    assert kiln.events(job_id).count("starting") == 2
    drill.record("capture that raises", 1)


def test_a_trainer_that_takes_too_long(kiln: Kiln, drill: Drill) -> None:
    """Invariant: the job fails, reason `timeout`, with its checkpoint kept, and the worker runs the next one.

    Faults injected: an endless budget, and KILN_JOB_TIMEOUT_S = 1.
    Broken by hand: services/trainer/worker/supervisor.py: `is_timed_out` never true -> times out waiting for its end
    """
    kiln.replace_worker(KILN_JOB_TIMEOUT_S="1")
    job_id, next_id = kiln.submit(ENDLESS), kiln.submit(ENDLESS)

    job = kiln.wait_until_over(job_id)

    assert (job.status, job.reason, job.attempt) == ("failed", "timeout", 1)
    assert kiln.checkpoints(job_id)
    assert kiln.wait_for_status(next_id, "running").attempt == 1
    drill.record("trainer that takes too long", 1)


# libfaketime 0.9.10 makes time.sleep fail with EINVAL when it leaves the monotonic clock alone, as it has to. Processes
# under it sleep by select(2) instead.
SLEEP_BY_SELECT = "import select, time\ntime.sleep = lambda s: select.select([], [], [], s)\n"
FAKETIME = next((str(path) for path in sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), "")


@pytest.mark.slow_drill
@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime (Debian's package faketime)")
@pytest.mark.parametrize("side", ["worker", "API"])
@pytest.mark.parametrize("offset_h", [2, -2])
def test_a_clock_that_is_two_hours_off(kiln: Kiln, drill: Drill, side: str, offset_h: int) -> None:
    """About 60 s each.

    Invariant: leases depend on the store's clock only: a live worker keeps its job; a dead one loses it when its lease
    expires, neither two hours later nor at once; the job's timestamps are the store's.
    Faults injected: libfaketime two hours ahead, behind, for the worker (and its trainer), for the API; then kill -9.
    Broken by hand: shared/jobs/store.py: `datetime.now(UTC)` for the store's time in `update` -> times out, with
    the worker two hours ahead and with the API
    """
    (kiln.folder / "sitecustomize.py").write_text(SLEEP_BY_SELECT)
    wrong = {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{offset_h:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
             "PYTHONPATH": str(kiln.folder)}  # fmt: skip
    began = datetime.now(UTC)
    if side == "API":
        kiln.replace_api(**wrong)
    worker = kiln.replace_worker(**wrong) if side == "worker" else kiln.worker
    job_id = kiln.submit(RUN)
    kiln.wait_until_training(job_id, 0.3)
    assert (kiln.job(job_id).attempt, kiln.job(job_id).fence) == (1, 1)

    worker.kill_tree()
    kiln.replace_worker(**(wrong if side == "worker" else {}))

    job = kiln.wait_until_over(job_id)
    assert (job.attempt, job.fence, job.crashes) == (2, 2, 1)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert began <= job.created_at <= job.started_at <= job.finished_at <= datetime.now(UTC) + timedelta(seconds=1)
    kiln.assert_same_outcome(job_id, RUN)
    drill.record(f"clock two hours off on the {side}'s side", 2)
