"""From a request to a queued job: the record is stored first, the message is sent second."""

from __future__ import annotations

import hashlib
import logging
from functools import partial

from services.api.jobs.warm_start import check_warm_start
from services.api.schemas.jobs import JobRequest
from shared.configs.classifier import ClassifierConfig, resolve_job
from shared.configs.train import TrainConfig
from shared.errors import StoreUnavailable
from shared.jobs.record import Job, new_job
from shared.jobs.store import JobStore
from shared.jobs.transitions import enqueued
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import Broker
from shared.storage.redis import Idempotency

log = logging.getLogger("kiln.jobs")


def submit(
    request: JobRequest, idempotency_key: str | None, store: JobStore, broker: Broker, artifacts: ArtifactStore
) -> Job:
    """Stores the job and enqueues it; the same Idempotency-Key returns the job it made before.

    Raises InvalidInput, IdempotencyMismatch or StoreUnavailable; then no job is stored.
    """
    config = resolve_request(request, store, artifacts)
    make = partial(new_job, preset=request.preset, config=config, dataset=request.dataset, name=request.name)
    job, is_new = store.create(make, idempotency_of(request, idempotency_key))
    return enqueue(job, store, broker) if is_new else job


def resolve_request(request: JobRequest, store: JobStore, artifacts: ArtifactStore) -> TrainConfig | ClassifierConfig:
    """The config that the job trains with. Raises InvalidInput."""
    config = resolve_job(request.preset, request.overrides)
    if isinstance(config, TrainConfig):
        check_warm_start(config, store, artifacts)
    return config


def idempotency_of(request: JobRequest, key: str | None) -> Idempotency | None:
    return Idempotency(key, hashlib.sha256(request.model_dump_json().encode()).hexdigest()) if key else None


def enqueue(job: Job, store: JobStore, broker: Broker) -> Job:
    """Sends the job to the queue. If that fails, the reaper sends it later: the record says that it was never sent."""
    try:
        broker.enqueue_training(job.id)
        return store.update(job.id, enqueued)
    except StoreUnavailable as error:
        log.warning("job %s is stored and will be sent later: %s", job.id, error)
        return job
