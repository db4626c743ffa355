"""Turns a request into a queued job: validates it, stores its record, then sends its message."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.api.jobs.class_names import ClassNames, shown
from services.api.jobs.generated import resolve_generation
from services.api.jobs.warm_start import check_classes, check_warm_start, find_source_run
from services.api.schemas.generated import GenerateJobRequest
from services.api.schemas.jobs import JobRequest, ResolvedJob
from services.api.schemas.sweeps import ResolvedSweep, SweepRequest
from shared.configs.classifier import resolve_job
from shared.configs.generate import GENERATE
from shared.configs.train import TrainConfig
from shared.errors import InvalidInput, StoreUnavailable
from shared.jobs.record import Job, new_job
from shared.jobs.store import JobStore
from shared.jobs.transitions import enqueued
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import Broker
from shared.storage.model_registry import ModelRegistry
from shared.storage.redis import Idempotency
from shared.sweeps.validation import check_spec

log = logging.getLogger("kiln.jobs")


@dataclass(frozen=True)
class Submitter:
    """Validates requests for jobs and sweeps, and submits jobs."""

    store: JobStore
    broker: Broker
    artifacts: ArtifactStore
    registry: ModelRegistry
    class_names: ClassNames
    starter: Path  # the folder of the starter model

    def submit(self, request: JobRequest | GenerateJobRequest, idempotency_key: str | None) -> Job:
        """Stores the job and enqueues it. A repeated Idempotency-Key returns the job that it created before.

        Raises InvalidInput, IdempotencyMismatch or StoreUnavailable; then no job is stored.
        """
        resolved = self.resolve(request)
        make = partial(
            new_job, preset=resolved.preset, config=resolved.config, dataset=resolved.dataset, name=request.name
        )
        job, is_new = self.store.create(make, idempotency_of(request, idempotency_key))
        return enqueue(job, self.store, self.broker) if is_new else job

    def resolve(self, request: JobRequest | GenerateJobRequest) -> ResolvedJob:
        """The config and the data set of the job. Raises InvalidInput."""
        if isinstance(request, GenerateJobRequest):
            generation, trained_on = resolve_generation(request, self.registry, self.class_names)
            return ResolvedJob(preset=GENERATE, dataset=trained_on, config=generation)
        config, dataset = resolve_job(request.preset, request.overrides), request.dataset
        if isinstance(config, TrainConfig):
            dataset = self._check_run(config, request)
        else:
            self.class_names.require_dataset(dataset)
        return ResolvedJob(preset=request.preset, dataset=dataset, config=config)

    def resolve_sweep(self, request: SweepRequest) -> ResolvedSweep:
        """The sweep's spec, and the config of one possible trial. Raises InvalidInput."""
        config = check_spec(request.spec)
        dataset = self._check_run(config, request)
        if request.objective.metric == "class_accuracy":
            self._check_class_accuracy("objective.metric", "class_accuracy", dataset)
        return ResolvedSweep(plan=request.spec.model_copy(update={"dataset": dataset}), config=config)

    def _check_run(self, config: TrainConfig, request: JobRequest) -> str:
        """Checks the config against its warm start and its data. -> the data set

        By default a job continues a checkpoint on the data set that the checkpoint was trained on.
        """
        reference = config.from_checkpoint or config.init_discriminator_from
        source = find_source_run(reference, self.store, self.registry)
        check_warm_start(config, source, self.artifacts, self.starter)
        is_default = "dataset" not in request.model_fields_set
        dataset = source.dataset if source and config.from_checkpoint and is_default else request.dataset
        self.class_names.require_dataset(dataset)
        check_classes(config, dataset, source, self.class_names)
        if config.early_stop is not None and config.early_stop.metric == "class_accuracy":
            self._check_class_accuracy("overrides.early_stop", config.early_stop.model_dump(), dataset)
        return dataset

    def _check_class_accuracy(self, field: str, value: object, dataset: str) -> None:
        """Raises InvalidInput if the classifier has other classes than the data set: it cannot measure the metric."""
        classes, known = self.class_names.of_dataset(dataset), self.class_names.of_classifier()
        if classes is None or classes == known:
            return
        message = (
            f"class_accuracy cannot be measured: data set {dataset!r} has {shown(classes)}; "
            f"the classifier has {shown(known)}. Choose another metric, or train a classifier on this data set"
        )
        raise InvalidInput.of(field, value, message)


def idempotency_of(request: JobRequest | GenerateJobRequest, key: str | None) -> Idempotency | None:
    return Idempotency(key, hashlib.sha256(request.model_dump_json().encode()).hexdigest()) if key else None


def enqueue(job: Job, store: JobStore, broker: Broker) -> Job:
    """Sends the job to the queue. If that fails, the record stays marked as unsent and the reaper sends it later."""
    try:
        broker.enqueue_training(job.id)
        return store.update(job.id, enqueued)
    except StoreUnavailable as error:
        log.warning("job %s is stored and will be sent later: %s", job.id, error)
        return job
