"""The supervisor with a real Redis and real training processes: claims, leases, crashes, publishing.

The training process is the real one (`python -m services.trainer`), on a data set of two colours.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from services.trainer.classifier.files import load_classifier
from services.trainer.worker.supervisor import Supervisor
from shared.configs.classifier import resolve_job
from shared.configs.generate import GENERATE, GenerateConfig
from shared.configs.presets import resolve
from shared.jobs import transitions
from shared.jobs.record import Job, JobStatus, new_job
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.classifier_files import read_manifest
from shared.storage.generated_datasets import GeneratedDatasets
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator
from tests.processes import processes_of, small_overrides, wait_for, write_color_dataset


class Worker:
    """A store, a registry, and supervisors that may run in threads."""

    def __init__(self, settings: Settings) -> None:
        write_color_dataset(settings.dataset_root)
        self.settings = settings
        self.store = RedisJobStore(settings.redis_url)
        self.artifacts = ArtifactStore(settings.artifact_url)
        self.registry = ModelRegistry(self.artifacts)
        self.stop = threading.Event()

    def queue(self, **overrides: object) -> Job:
        config = resolve("tiny", small_overrides(**overrides))
        return self.store.create(partial(new_job, preset="tiny", config=config, dataset="colors", name=None))[0]

    def supervise(self, job: Job) -> None:
        Supervisor(self.store, self.registry, self.settings, self.stop).supervise(job.id)

    @contextmanager
    def supervising(self, job: Job) -> Iterator[threading.Thread]:
        """Supervises the job in a thread until the supervisor is done with it."""
        thread = threading.Thread(target=self.supervise, args=(job,))
        thread.start()
        try:
            yield thread
        finally:
            thread.join()

    def wait(self, job: Job, is_so: Callable[[Job], bool]) -> Job:
        return wait_for(lambda: self.store.get(job.id), is_so)

    def trainer_pid(self) -> int:
        command = "services.trainer train --job"
        return next(pid for pid, line in processes_of(self.settings.data).items() if command in line)

    def events(self, job: Job) -> list[str]:
        return [event.kind for event in self.store.events(job.id)]


@pytest.fixture
def worker(settings: Settings) -> Worker:
    return Worker(settings)


def queue_classifier(worker: Worker, **overrides: object) -> Job:
    """Queues a classifier of the two colours, which are also its test images."""
    folder = worker.settings.dataset_root / "colors"
    shutil.copytree(folder / "train", folder / "test")
    config = resolve_job("classifier", {"width": 8, "epochs": 2, "batch_size": 16, "tick_nimg": 40} | overrides)
    make = partial(new_job, preset="classifier", config=config, dataset="colors", name=None)
    return worker.store.create(make)[0]


def is_training(job: Job) -> bool:
    return job.progress.images_seen > 0


def test_a_classifier_is_trained_as_a_job(worker: Worker) -> None:
    # Given a job of the kind `classifier`, when its message arrives
    job = queue_classifier(worker)
    assert job.kind == "classifier"
    worker.supervise(job)
    # Then it succeeds with events and metrics, and there is no model
    done = worker.store.get(job.id)
    assert (done.status, done.error, done.model_id) == (JobStatus.SUCCEEDED, None, None)
    assert (done.progress.images_seen, done.progress.images_total, done.progress.fraction) == (160, 160, 1.0)
    assert [row["nimg"] for row in worker.store.metrics(job.id)] == [48, 80, 128, 160]  # whole batches
    assert worker.registry.list() == []
    # And the artifact store has the complete classifier, which can be loaded as a folder
    stored = worker.settings.data / "artifacts" / "classifiers" / job.id
    _, manifest = load_classifier(stored)
    assert (manifest.config, manifest.classes, manifest.images_seen) == (job.config, ("blue", "red"), 160)


def test_a_classifier_whose_trainer_is_killed_resumes(worker: Worker) -> None:
    # Given a classifier in training, with a checkpoint after each step
    job = queue_classifier(worker, epochs=1000, checkpoint_every_s=0)
    with worker.supervising(job):
        worker.wait(job, is_training)
        # When its process is killed, and later the user finishes the job
        os.kill(worker.trainer_pid(), signal.SIGKILL)
        worker.wait(job, lambda job: job.status is JobStatus.QUEUED)
    seen = worker.store.get(job.id).progress.images_seen
    with worker.supervising(job):
        worker.wait(job, lambda job: job.progress.images_seen > seen)
        worker.store.update(job.id, partial(transitions.request_action, request="finish"))
    # Then it resumed from the checkpoint, and the classifier so far is stored
    done = worker.store.get(job.id)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
    assert "resumed" in worker.events(job)
    stored = read_manifest(worker.settings.data / "artifacts" / "classifiers" / job.id)
    assert seen < stored.images_seen < 1000 * 80


def test_a_data_set_whose_process_is_killed_is_completed_by_the_next_attempt(worker: Worker) -> None:
    # Given a job that generates ten shards with a slow model
    model = publish(worker.registry, "slow", graph=make_generator(LATENT, len(CLASSES), work=2))
    config = GenerateConfig(
        model="slow", model_digest=model.digest, classes={"cat": 600, "dog": 400}, n=1000, shard_images=100
    )
    make = partial(new_job, preset=GENERATE, config=config, dataset="cifar10", name=None)
    job, _ = worker.store.create(make)

    # When its process is killed after the first shard, and the job is claimed again
    with worker.supervising(job):
        wait_for(lambda: worker.artifacts.list(f"jobs/{job.id}/dataset"), lambda names: "shard-00000.json" in names)
        os.kill(worker.trainer_pid(), signal.SIGKILL)
    assert worker.store.get(job.id).crashes == 1
    worker.supervise(job)

    # Then the data set is complete, and the job has published no model
    done = worker.store.get(job.id)
    assert (done.status, done.attempt, done.model_id, done.progress.images_seen) == (JobStatus.SUCCEEDED, 2, None, 1000)
    assert worker.events(job).count("resumed") == 1
    manifest = GeneratedDatasets(worker.artifacts).manifest(job.id)
    assert (manifest.classes, len(manifest.shards)) == ({"cat": 600, "dog": 400}, 10)


def test_a_job_is_trained_once_and_its_model_published(worker: Worker) -> None:
    # Given a job, when its message arrives
    job = worker.queue()
    worker.supervise(job)

    # Then it is trained, and its model is published
    done = worker.store.get(job.id)
    assert (done.status, done.error, done.attempt, done.lease_until) == (JobStatus.SUCCEEDED, None, 1, None)
    assert worker.registry.resolve("default") == done.model_id == f"tiny-{job.id}"
    assert [row["nimg"] for row in worker.store.metrics(job.id)] == [160, 320, 480, 640]
    assert worker.events(job)[:3] == ["starting", "loading", "started"]
    assert worker.events(job)[-1] == "succeeded"

    # When its message arrives again, nothing happens
    worker.supervise(job)
    assert worker.store.get(job.id) == done

    # When its worker dies between publishing and finishing, the next worker finishes it with that model
    worker.store.update(
        job.id, lambda j, _: j.model_copy(update={"status": JobStatus.QUEUED, "model_id": None, "attempt": 1})
    )
    worker.supervise(job)
    again = worker.store.get(job.id)
    assert (again.status, again.model_id) == (JobStatus.SUCCEEDED, done.model_id)
    assert worker.events(job).count("started") == 1


def test_a_job_that_another_worker_holds_is_not_claimed(worker: Worker) -> None:
    job = worker.queue()
    held = worker.store.update(job.id, partial(transitions.claim, worker="other", lease_s=3600))

    worker.supervise(job)

    assert worker.store.get(job.id) == held


def test_the_message_of_an_unavailable_job_starts_the_oldest_waiting_one(worker: Worker) -> None:
    cancelled, older, newer = worker.queue(), worker.queue(), worker.queue()
    worker.store.update(cancelled.id, partial(transitions.request_action, request="cancel"))

    with worker.supervising(cancelled):
        worker.wait(older, lambda job: job.status is JobStatus.RUNNING)
        os.kill(
            wait_for(lambda: trainer_pids(worker), bool)[0], signal.SIGKILL
        )  # it has started, which is all that this test needs

    assert worker.store.get(older.id).attempt == 1
    assert worker.store.get(newer.id).attempt == 0


def test_a_killed_trainer_is_restarted_from_its_checkpoint_with_the_same_outcome(worker: Worker) -> None:
    """The weights and metrics are those of an undisturbed job, without gaps or duplicates."""
    budget = {"total_nimg": 6400, "tick_nimg": 800, "snapshot_nimg": 6400, "checkpoint_every_s": 0.1}
    undisturbed, victim = worker.queue(**budget), worker.queue(**budget)
    worker.supervise(undisturbed)

    with worker.supervising(victim):
        wait_for(lambda: worker.artifacts.list(f"jobs/{victim.id}/checkpoints"), bool)
        os.kill(worker.trainer_pid(), signal.SIGKILL)
    crashed = worker.store.get(victim.id)
    assert (crashed.status, crashed.crashes) == (JobStatus.QUEUED, 1)
    worker.supervise(victim)

    done = worker.store.get(victim.id)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
    assert "resumed" in worker.events(victim)
    assert worker.store.metrics(victim.id) == worker.store.metrics(undisturbed.id)
    first, second = (worker.registry.get(f"tiny-{job.id}") for job in (undisturbed, victim))
    assert first.digest == second.digest


def test_a_job_that_crashes_every_time_ends_as_lost(settings: Settings) -> None:
    worker = Worker(settings.model_copy(update={"max_attempts": 2}))
    job = worker.queue(total_nimg=10**9)

    for _ in range(2):
        with worker.supervising(job):
            worker.wait(job, lambda seen: seen.status is JobStatus.RUNNING)
            os.kill(wait_for(lambda: trainer_pids(worker), bool)[0], signal.SIGKILL)

    lost = worker.store.get(job.id)
    assert (lost.status, lost.reason, lost.attempt) == (JobStatus.LOST, "worker_lost", 2)
    assert "SIGKILL" in (lost.error or "")


def test_a_worker_that_lost_its_job_stops_its_trainer_and_writes_nothing(worker: Worker) -> None:
    job = worker.queue(total_nimg=10**9)

    with worker.supervising(job):
        worker.wait(job, is_training)
        # When another worker has claimed the job, as after an expired lease
        stolen = worker.store.update(
            job.id, lambda j, _: j.model_copy(update={"fence": j.fence + 1, "worker": "thief"})
        )

    # Then the supervisor returns, its trainer has ended, and the new owner's record is unchanged
    assert trainer_pids(worker) == []
    assert worker.store.get(job.id) == stolen


def test_a_worker_that_shuts_down_releases_its_job(worker: Worker) -> None:
    job = worker.queue(total_nimg=10**9)

    with worker.supervising(job):
        worker.wait(job, is_training)
        worker.stop.set()

    back = worker.store.get(job.id)
    assert (back.status, back.crashes, back.lease_until) == (JobStatus.QUEUED, 0, None)
    assert worker.events(job)[-2:] == ["checkpoint", "handed_back"]


def test_a_trainer_that_does_not_exit_is_killed(settings: Settings) -> None:
    worker = Worker(settings.model_copy(update={"stop_grace_s": 0.5}))
    job = worker.queue(total_nimg=10**9)

    with worker.supervising(job):
        worker.wait(job, is_training)
        os.kill(worker.trainer_pid(), signal.SIGSTOP)  # SIGTERM no longer reaches it
        worker.store.update(job.id, partial(transitions.request_action, request="cancel"))

    assert worker.store.get(job.id).status is JobStatus.CANCELLED
    assert trainer_pids(worker) == []


def trainer_pids(worker: Worker) -> list[int]:
    return [pid for pid, line in processes_of(worker.settings.data).items() if "services.trainer train --job" in line]
