"""From a request to a queued job: record first, message second."""

from __future__ import annotations

import hashlib
import logging
from functools import partial

from services.api.jobs.warm_start import check_beginning
from services.api.schemas.jobs import JobRequest
from services.api.schemas.sweeps import SweepRequest
from services.api.state import AppState
from shared.configs.classifier import ClassifierConfig, resolve_job
from shared.configs.train import TrainConfig
from shared.errors import StoreUnavailable
from shared.jobs.record import Job, new_job
from shared.jobs.transitions import enqueued
from shared.storage.redis import Idempotency
from shared.sweeps.record import Sweep, new_sweep

log = logging.getLogger("kiln.submission")


def submit(request: JobRequest, idempotency_key: str | None, state: AppState) -> Job:
    """Stores the job, then sends it.

    Raises InvalidInput, IdempotencyMismatch or StoreUnavailable, and then nothing is stored.
    """
    config = resolve_request(request, state)
    make = partial(new_job, preset=request.preset, config=config, dataset=request.dataset, name=request.name)
    job, is_new = state.store.create(make, _idempotency(request, idempotency_key))
    return send(job, state) if is_new else job


def resolve_request(request: JobRequest, state: AppState) -> TrainConfig | ClassifierConfig:
    """What would be trained. Raises InvalidInput."""
    config = resolve_job(request.preset, request.overrides)
    if isinstance(config, TrainConfig):
        check_beginning(config, state)
    return config


def submit_sweep(request: SweepRequest, idempotency_key: str | None, state: AppState) -> Sweep:
    """Stores a sweep whose plan was checked; the sweeper makes its jobs. Raises IdempotencyMismatch."""
    make = partial(new_sweep, plan=request.plan, name=request.name)
    return state.sweeps.create(make, _idempotency(request, idempotency_key))[0]


def _idempotency(request: JobRequest, key: str | None) -> Idempotency | None:
    return Idempotency(key, hashlib.sha256(request.model_dump_json().encode()).hexdigest()) if key else None


def send(job: Job, state: AppState) -> Job:
    """Puts the job on the queue. If that fails it is not lost: the reaper finds what was recorded and never sent."""
    try:
        state.broker.enqueue_training(job.id)
        return state.store.update(job.id, enqueued)
    except StoreUnavailable as error:
        log.warning("job %s is recorded and will be sent later: %s", job.id, error)
        return job
