"""Cancel, pause, resume, finish and delete a job."""

from __future__ import annotations

from functools import partial

from services.api.jobs.submit import enqueue
from shared.jobs import transitions
from shared.jobs.record import Job, RequestedAction
from shared.jobs.store import Change, JobStore
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import Broker


def request_action(job_id: str, action: RequestedAction, store: JobStore, broker: Broker) -> Job:
    """Cancels, pauses or finishes the job. Raises UnknownJob and IllegalTransition."""
    return _update(job_id, partial(transitions.request_action, request=action), store, broker)


def resume(job_id: str, store: JobStore, broker: Broker) -> Job:
    """Queues a paused or lost job again. Raises UnknownJob and IllegalTransition."""
    return _update(job_id, transitions.resume, store, broker)


def _update(job_id: str, change: Change, store: JobStore, broker: Broker) -> Job:
    """Applies the change; sends a message at once if the job is now queued without one."""
    job = store.update(job_id, change)
    return enqueue(job, store, broker) if job.is_unsent else job


def delete(job_id: str, store: JobStore, artifacts: ArtifactStore) -> None:
    """Deletes a job that is over: its record, metrics, events, checkpoints and sample grids. Its model stays.

    Raises UnknownJob and IllegalTransition.
    """
    store.delete(job_id)
    artifacts.delete_all(f"jobs/{job_id}")
