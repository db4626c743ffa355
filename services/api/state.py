"""The long-lived objects of the API: opened at start-up, closed at shutdown, passed to routes as `state: State`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from services.api.datasets.listing import DatasetCatalog
from services.api.datasets.push import Pusher
from services.api.images.render import encoder_pool
from services.api.images.response_cache import ResponseCache
from services.api.inference.bounded_pool import BoundedPool
from services.api.inference.classifier import LazyClassifier
from services.api.inference.model_pool import ModelPool
from services.api.jobs.class_names import ClassNames
from services.api.jobs.store_health import StoreHealth
from services.api.jobs.submit import Submitter, enqueue
from services.api.middleware.draining import Drain
from services.api.sweeps.runner import SweepRunner
from services.api.telemetry import Telemetry
from shared.jobs.store import JobStore, RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import Broker
from shared.storage.datasets import PushedDatasets
from shared.storage.model_registry import ModelRegistry
from shared.sweeps.store import RedisSweepStore, SweepStore

STORE_TIMEOUT_S = 1.0  # so that a client gets its 503 within two seconds while Redis hangs


@dataclass(frozen=True)
class AppState:
    settings: Settings
    store: JobStore
    sweeps: SweepStore
    sweep_runner: SweepRunner
    submitter: Submitter
    broker: Broker
    artifacts: ArtifactStore
    registry: ModelRegistry
    datasets: DatasetCatalog
    pusher: Pusher
    models: ModelPool
    classifier: LazyClassifier
    response_cache: ResponseCache
    encoders: BoundedPool
    telemetry: Telemetry
    drain: Drain
    store_health: StoreHealth

    def close(self) -> None:
        self.store.close()
        self.sweeps.close()
        self.broker.close()


def open_state(settings: Settings, drain: Drain) -> AppState:
    artifacts = ArtifactStore(settings.artifact_url)
    registry, telemetry, broker = ModelRegistry(artifacts), Telemetry(), Broker(settings)
    store = RedisJobStore(settings.redis_url, timeout_s=STORE_TIMEOUT_S)
    sweeps = RedisSweepStore(settings.redis_url, timeout_s=STORE_TIMEOUT_S)
    pushed = PushedDatasets(artifacts)
    datasets = DatasetCatalog(settings.dataset_root, pushed)
    class_names = ClassNames(settings.dataset_root, pushed, settings.classifier, registry)
    return AppState(
        settings=settings,
        store=store,
        sweeps=sweeps,
        sweep_runner=SweepRunner(sweeps, store, registry, partial(enqueue, store=store, broker=broker)),
        submitter=Submitter(store, broker, artifacts, registry, class_names, settings.starter),
        broker=broker,
        artifacts=artifacts,
        registry=registry,
        datasets=datasets,
        pusher=Pusher(settings, pushed, store, sweeps, threading.Lock()),
        models=ModelPool(registry, settings, telemetry),
        response_cache=ResponseCache(settings.answer_cache_mb << 20, telemetry.count_cache),
        encoders=encoder_pool(),
        classifier=LazyClassifier(settings),
        telemetry=telemetry,
        drain=drain,
        store_health=StoreHealth(store),
    )


def state_of(request: Request) -> AppState:
    """The state of the application that serves the request."""
    state: AppState = request.app.state.kiln
    return state


State = Annotated[AppState, Depends(state_of)]
