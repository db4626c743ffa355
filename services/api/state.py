"""What the routes need, made once at start-up and kept on `app.state`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.api.images.response_cache import ResponseCache
from services.api.inference.classifier import LazyClassifier
from services.api.inference.model_pool import ModelPool
from services.api.jobs.store_health import StoreHealth
from services.api.server import Drain
from services.api.telemetry import Telemetry
from shared.jobs.store import JobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import Broker
from shared.storage.model_registry import ModelRegistry
from shared.sweeps.store import SweepStore


@dataclass(frozen=True)
class AppState:
    settings: Settings
    store: JobStore
    sweeps: SweepStore
    broker: Broker
    artifacts: ArtifactStore
    registry: ModelRegistry
    models: ModelPool
    classifier: LazyClassifier
    answers: ResponseCache
    telemetry: Telemetry
    drain: Drain
    store_health: StoreHealth

    def close(self) -> None:
        self.store.close()
        self.sweeps.close()
        self.broker.close()


def _services(request: Request) -> AppState:
    services: AppState = request.app.state.services
    return services


State = Annotated[AppState, Depends(_services)]
