"""Breaks one mechanism at a time in a copy of the sources, and checks that its drill fails.

`python -m tests.drills.breaks [part of a drill's name ...]` prints how each drill failed. It exits with status 1 if a
drill passes although its mechanism is broken. It takes about a minute per drill.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

COPIED = ("services", "shared", "tests", "pyproject.toml")
# Most breaks show as a timeout, so a shorter one saves time.
SHORTER_TIMEOUT = ("tests/processes.py", "PATIENCE_S = 240.0", "PATIENCE_S = 75.0")


@dataclass(frozen=True)
class Break:
    """Replaces `old` by `new` in `file`; then `drill` must fail."""

    drill: str
    file: str
    old: str
    new: str


SUPERVISOR, STORE, JOBS = "services/trainer/worker/supervisor.py", "shared/jobs/store.py", "shared/jobs/transitions.py"
REDIS = "shared/storage/redis.py"
UPDATE_NOW = "after = change(before, from_redis(pipe.time()))"

BREAKS = (
    Break("test_killed.py::test_kill_9_the_trainer_mid_epoch", "services/trainer/training/state.py",
          'torch.set_rng_state(saved["rng_cpu"].cpu())', "pass"),
    Break("test_killed.py::test_kill_9_the_trainer_during_a_checkpoint_write", "shared/storage/artifacts.py",
          '_UNFINISHED = ".unfinished-"', '_UNFINISHED = "9"'),
    Break("test_killed.py::test_kill_9_the_worker_and_its_trainer", JOBS,
          "return job.status is JobStatus.RUNNING and job.lease_until is not None", "return False"),
    Break("test_killed.py::test_kill_9_the_workers_main_process", "services/trainer/commands/train.py",
          "    die_with_parent(parent_pid)", "    pass"),
    Break("test_killed.py::test_kill_9_the_workers_child", SUPERVISOR,
          "        if crashes >= self.settings.max_attempts:", "        if crashes >= 1:"),
    Break("test_killed.py::test_a_poison_job_ends_as_lost_and_the_next_one_runs", JOBS,
          "    if crashes >= max_attempts:", "    if False:"),
    Break("test_killed.py::test_a_worker_that_shuts_down_releases_its_job", SUPERVISOR,
          "if self.stop.is_set() or self.is_timed_out", "if self.is_timed_out"),
    Break("test_killed.py::test_a_trainer_that_ignores_sigterm_is_killed", SUPERVISOR,
          "if now_s >= self.kill_at_s:", "if False:"),
    Break("test_generate.py::test_kill_9_in_the_middle_of_a_data_set", "services/trainer/generation/run.py",
          "            self._position = record.position\n", ""),
    Break("test_leases.py::test_a_lease_shorter_than_publishing", SUPERVISOR,
          "            while not wait({future}, HEARTBEAT_S).done:\n                self._try_to_flush()\n", ""),
    Break("test_fences.py::test_kill_9_the_api_between_record_and_message", "services/api/jobs/reaper.py",
          "for job in self._store.unsent():", "for job in ():"),
    Break("test_fences.py::test_one_message_delivered_five_times", JOBS,
          "    if lease_is_live:", "    if False:"),
    Break("test_fences.py::test_a_worker_that_sleeps_past_its_lease_loses_its_job", JOBS,
          "if job.fence != fence or job.status is not JobStatus.RUNNING:", "if False:"),
    Break("test_fences.py::test_a_worker_that_dies_between_publishing_and_finishing", SUPERVISOR,
          "            if self._is_published(job):", "            if False:"),
    Break("test_fences.py::test_a_connection_that_drops_before_the_answer", STORE,
          "if last == token:", "if False:"),
    Break("test_fences.py::test_reapers_of_several_replicas_at_once", STORE,
          "            return after\n\n        return transact(self._redis, record, attempt)",
          '            return after\n\n        return transact(self._redis, record + ".", attempt)'),
    Break("test_redis_lost.py::test_redis_restarts_while_nothing_happens", "shared/storage/celery_app.py",
          "broker_connection_max_retries=None,", "broker_connection_retry=False,"),
    Break("test_redis_lost.py::test_redis_returns_in_a_job[redis restart in a job-shut_down]", SUPERVISOR,
          '            log.warning("job %s: %s", self.job.id, error)\n',
          '            log.warning("job %s: %s", self.job.id, error)\n            raise\n'),
    Break("test_redis_lost.py::test_redis_returns_in_a_job[redis kill -9 with AOF, in a job-kill]",
          "services/dev.py", '"--appendonly": "yes"', '"--appendonly": "no"'),
    Break("test_redis_lost.py::test_redis_ends_during_a_post", REDIS,
          "if idempotency and (text := pipe.get(note)):", "if idempotency and (text := ''):"),
    Break("test_redis_lost.py::test_redis_hangs_during_a_post", REDIS,
          "socket_timeout=timeout_s,", "socket_timeout=10,"),
    Break("test_redis_lost.py::test_flushall_in_a_job", SUPERVISOR, "        except UnknownJob:\n            # Redis",
          "        except UnknownJob:\n            raise\n            # Redis"),
    Break("test_redis_lost.py::test_redis_is_down_for_a_while[60.0]", SUPERVISOR,
          "            if stop.wait(HEARTBEAT_S):\n", "            if True:\n"),
    Break("test_redis_connections.py::test_redis_by_unix_socket", "shared/storage/celery_app.py",
          "broker=celery_url(settings.redis_url)", "broker=settings.redis_url"),
    Break("test_redis_connections.py::test_redis_by_tls_with_a_private_ca", "shared/redis_url.py",
          '{"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}',
          '{"ssl_cert_reqs": "none", "ssl_check_hostname": "false"}'),
    Break("test_redis_connections.py::test_an_evicting_redis", REDIS, 'if policy != "noeviction":', "if False:"),
    Break("test_disk.py::test_the_disk_is_full_for_a_while[checkpoint]", "services/trainer/runs/recorder.py",
          "            if error.errno not in DISK_FULL:\n", "            if True:\n"),
    Break("test_disk.py::test_the_disk_is_full_for_a_while[sample]", "services/trainer/runs/recorder.py",
          '        with self._tolerate_full_disk("sample grid", nimg):\n', "        if True:\n"),
    Break("test_disk.py::test_the_disk_is_full_during_export", "shared/errors.py",
          "DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)", "DISK_FULL = (errno.ENOSPC, errno.EDQUOT)"),
    Break("test_disk.py::test_the_disk_is_full_during_publishing", SUPERVISOR,
          "Reason.DISK_FULL if error.errno in DISK_FULL else Reason.WORKER_LOST", "Reason.WORKER_LOST"),
    Break("test_disk.py::test_the_newest_checkpoint_is_damaged[flip_a_bit]", "services/trainer/runs/checkpoint.py",
          "hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]", "False"),
    Break("test_bad_trainers.py::test_a_trainer_that_hangs_once", SUPERVISOR,
          "elif now_s >= self.stalled_at_s:", "elif False:"),
    Break("test_bad_trainers.py::test_a_trainer_that_hangs_every_time", SUPERVISOR,
          "self._retry(Reason.STALLED,", "self._retry(Reason.WORKER_LOST,"),
    Break("test_bad_trainers.py::test_a_trainer_that_takes_too_long", SUPERVISOR,
          "self.is_timed_out = limit_s is not None and self.job.trained_s > limit_s", "self.is_timed_out = False"),
    Break("test_environment.py::test_a_data_set_is_gone_and_back", "services/trainer/commands/train.py",
          "    if isinstance(error, BadDataset) and has_checkpoint:", "    if False:"),
    Break("test_bad_trainers.py::test_a_trainer_that_raises", "services/trainer/commands/train.py",
          "    if isinstance(error, TrainingFailed):", "    if False:"),
    Break("test_bad_trainers.py::test_a_trainer_that_runs_out_of_memory", "services/trainer/commands/train.py",
          '''"can't allocate memory", "could not create a primitive"''', ""),
    Break("test_bad_trainers.py::test_a_trainer_that_diverges", "services/trainer/training/loop.py",
          "    if not torch.isfinite(sums).all():", "    if False:"),
    Break("test_bad_trainers.py::test_a_diverged_run_keeps_its_checkpoints", "services/trainer/training/loop.py",
          "    if state.ranks.is_first and (name := state.find_nonfinite()) is not None:",
          "    if (name := state.find_nonfinite()) is not None and False:"),
    Break("test_bad_trainers.py::test_a_capture_that_raises", "services/trainer/commands/train.py",
          "    except CaptureFailed as error:\n        warn_of_capture(error, send)\n        "
          "restart_without_capture(settings, sys.argv[1:], stop, standard_input=text, standard_output=channel)\n", ""),
    Break("test_bad_trainers.py::test_a_clock_that_is_two_hours_off[2-worker]", STORE,
          UPDATE_NOW, "after = change(before, datetime.now(UTC))"),
    Break("test_bad_trainers.py::test_a_clock_that_is_two_hours_off[2-API]", STORE,
          UPDATE_NOW, "after = change(before, datetime.now(UTC))"),
    Break("test_requests.py::test_a_request_in_every_state_twice[cancel]", JOBS,
          "    if job.is_over:\n        return job\n", ""),
    Break("test_requests.py::test_a_request_in_every_state_twice[pause]", JOBS,
          "return job if job.status is JobStatus.PAUSED else _move(", "return _move("),
    Break("test_requests.py::test_a_request_in_every_state_twice[resume]", JOBS,
          "    if job.is_over:\n        raise IllegalTransition", "    if False:\n        raise IllegalTransition"),
    Break("test_requests.py::test_a_request_in_every_state_twice[finish]", JOBS,
          "    if job.attempt == 0:", "    if False:"),
    Break("test_requests.py::test_a_running_job_reacts_within_two_seconds[cancel-cancelled]", SUPERVISOR,
          "HEARTBEAT_S = 0.5", "HEARTBEAT_S = 2.8"),
    Break("test_requests.py::test_a_running_job_reacts_within_two_seconds[pause-paused]", SUPERVISOR,
          "            if process.send_signal(signal.SIGTERM):",
          "            if process.send_signal(signal.SIGTERM) and False:"),
    Break("test_http_jobs.py::test_one_idempotency_key_from_50_clients_at_once", REDIS,
          "if idempotency and (text := pipe.get(note)):", "if idempotency and (text := ''):"),
    Break("test_http_jobs.py::test_hostile_ids", "shared/storage/model_registry.py",
          "        if not _NAME.fullmatch(model_id):\n            raise UnknownModel(model_id)\n", ""),
    Break("test_http_redis.py::test_redis_down_during_post", "services/api/app.py",
          "        except StoreUnavailable:\n            await asyncio.sleep(RESCAN_S)",
          "        except ZeroDivisionError:\n            await asyncio.sleep(RESCAN_S)"),
    Break("test_http_redis.py::test_redis_hangs_during_post", "services/api/app.py", "JOB_THREADS = 128",
          "JOB_THREADS = 8"),
    Break("test_serving_clients.py::test_half_open_clients", "services/api/middleware/body_limit.py",
          "asyncio.timeout(self._timeout_s)", "asyncio.timeout(None)"),
    Break("test_serving_clients.py::test_disconnect_in_the_queue", "services/api/routes/generate.py",
          "await cancel_on_disconnect(request, render(resolved, state.encoders))",
          "await render(resolved, state.encoders)"),
    Break("test_serving_drain.py::test_drain_under_load", "services/api/server.py",
          "        if self._drain.is_on:\n            super()", "        if True:\n            super()"),
    Break("test_serving_models.py::test_models_that_are_wrong", "services/generator/engine.py",
          "        self._check_images()\n", ""),
    Break("test_serving_models.py::test_models_that_are_wrong", "shared/storage/model_registry.py",
          "if hashlib.sha256(data).hexdigest() != manifest.files[name]:", "if False:"),
)  # fmt: skip


def replace_once(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{file} contains this text {text.count(old)} times instead of once: {old}")
    path.write_text(text.replace(old, new))


def path_of(drill: str) -> str:
    """`test_killed.py::test_...` -> the same with its folder, as pytest expects it."""
    (path,) = (ROOT / "tests" / "drills").rglob(drill.partition("::")[0])
    return drill.replace(path.name, str(path.relative_to(ROOT)), 1)


def fails(broken: Break) -> tuple[bool, str]:
    """Runs the drill on the broken copy. -> whether it failed, and its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder)
        replace_once(folder, *SHORTER_TIMEOUT)
        replace_once(folder, broken.file, broken.old, broken.new)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", path_of(broken.drill), "-m", "", "-q", "-x", "-p", "no:cacheprovider",
             "--tb=short", f"--basetemp={folder / 'tmp'}"],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(folder), "KILN_DRILL_REPORT": ""}, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
    words = [line for line in done.stdout.splitlines() if line.startswith("E  ") or " passed" in line]
    return done.returncode == 1, "\n".join(words[:6] or done.stdout.splitlines()[-15:])


def main() -> int:
    wanted = sys.argv[1:]
    chosen = [each for each in BREAKS if not wanted or any(part in each.drill for part in wanted)]
    passed = 0
    for broken in chosen:
        has_failed, words = fails(broken)
        passed += not has_failed
        sys.stdout.write(f"{'fails' if has_failed else 'PASSES'}: {broken.drill}\n{words}\n\n")
        sys.stdout.flush()
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())
