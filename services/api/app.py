"""The API: `create_app(settings)`. Nothing happens at import; everything is opened and closed by the lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from services.api import errors, openapi
from services.api.images.class_sampling import HEADERS as BY_CLASS_HEADERS
from services.api.images.response_cache import ResponseCache
from services.api.inference.classifier import LazyClassifier
from services.api.inference.model_pool import ModelPool
from services.api.inference.starter_model import publish_starter
from services.api.jobs.reaper import Reaper
from services.api.jobs.store_health import StoreHealth
from services.api.middleware.body_limit import BodyLimit
from services.api.middleware.hot_path import HotPath
from services.api.middleware.security_headers import SecurityHeaders
from services.api.periodic import PeriodicTask
from services.api.routes import (
    docs,
    events,
    generate,
    health,
    history,
    interpolate,
    jobs,
    metrics,
    models,
    presets,
    sweeps,
    verify,
)
from services.api.server import CloseWhenDraining, Drain
from services.api.state import AppState
from services.api.sweeps.runner import ROUND_S, sweeper_of
from services.api.telemetry import Telemetry
from shared.errors import StoreUnavailable
from shared.jobs.store import RedisJobStore
from shared.settings import Settings, read_settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import Broker
from shared.storage.model_registry import ModelRegistry
from shared.storage.pubsub import Announcements
from shared.sweeps.store import RedisSweepStore

log = logging.getLogger("kiln.api")

JOB_THREADS = 128
STORE_TIMEOUT_S = 1.0  # a client that Redis keeps waiting is told so within two seconds, on a busy machine too
RESCAN_S = 5.0  # models are announced; a lost announcement is made up for after so long


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or read_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # While Redis hangs, each job route holds a thread for as long as its timeout. The rest needs none of these.
        current_default_thread_limiter().total_tokens = JOB_THREADS
        state = open_services(settings, app.state.drain)
        app.state.services = state
        reaper = PeriodicTask("reaper", Reaper(state).go, settings.lease_s / 3)
        sweeper = PeriodicTask("sweeper", sweeper_of(state).advance_all, ROUND_S)
        reaper.start()
        sweeper.start()
        announcements = Announcements(settings.redis_url)
        watcher = asyncio.create_task(_watch_models(state, announcements))
        yield
        # Again and again: redis-py swallows a cancellation that meets it while it connects.
        while not watcher.done():
            watcher.cancel()
            await asyncio.wait({watcher}, timeout=0.5)
        await announcements.close()
        await asyncio.to_thread(sweeper.stop)
        await asyncio.to_thread(reaper.stop)
        state.close()

    app = FastAPI(title="Kiln", summary="Train class-conditional GANs as durable jobs, and serve their images.",
                  lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)  # fmt: skip
    app.state.drain = Drain(settings.drain_s)
    errors.install(app)
    _add_middleware(app, settings)
    app.state.routes = []
    modules = (jobs, events, history, generate, interpolate, verify, models, sweeps, presets, health, metrics, docs)
    for module in modules:
        app.include_router(module.router)
        app.state.routes += module.router.routes
    openapi.install(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """The last one added is the outermost."""
    larger = {"/verify": settings.max_png_bytes}
    app.add_middleware(BodyLimit, settings.max_body_bytes, settings.body_timeout_s, larger)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Kiln-Model", "X-Kiln-Seed", *BY_CLASS_HEADERS],
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CloseWhenDraining, drain=app.state.drain)
    app.add_middleware(HotPath)


def open_services(settings: Settings, drain: Drain) -> AppState:
    artifacts = ArtifactStore(settings.artifact_url)
    registry = ModelRegistry(artifacts)
    telemetry = Telemetry()
    store = RedisJobStore(settings.redis_url, timeout_s=STORE_TIMEOUT_S)
    return AppState(
        settings=settings,
        store=store,
        sweeps=RedisSweepStore(settings.redis_url, timeout_s=STORE_TIMEOUT_S),
        broker=Broker(settings),
        artifacts=artifacts,
        registry=registry,
        models=ModelPool(registry, settings, telemetry),
        answers=ResponseCache(settings.answer_cache_mb << 20, telemetry.count_cache),
        classifier=LazyClassifier(settings),
        telemetry=telemetry,
        drain=drain,
        store_health=StoreHealth(store),
    )


async def _watch_models(state: AppState, announcements: Announcements) -> None:
    """Keeps the pool in step with the registry, for as long as the API runs; no failure ends it."""
    try:
        await asyncio.to_thread(publish_starter, state.registry, state.settings.starter)
    except Exception:
        log.exception("the starter model could not be published")
    while True:
        try:
            await state.models.refresh()
        except Exception:
            log.exception("the models could not be refreshed; the old ones stay")
        try:
            await announcements.wait(RESCAN_S)
        except StoreUnavailable:
            await asyncio.sleep(RESCAN_S)  # files can still be looked at without Redis
