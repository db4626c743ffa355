"""`create_app(settings)` builds the FastAPI application; its lifespan opens and closes everything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from services.api import errors, openapi
from services.api.auth import AuthorizeBody
from services.api.images.class_sampling import HEADERS as CLASS_SAMPLING_HEADERS
from services.api.inference.starter_model import publish_starter
from services.api.jobs.reaper import Reaper
from services.api.jobs.retention import INTERVAL_S as RETENTION_S
from services.api.jobs.retention import delete_old_jobs
from services.api.middleware.allowed_hosts import AllowedHosts
from services.api.middleware.body_limit import BodyLimit
from services.api.middleware.draining import CloseWhenDraining, Drain
from services.api.middleware.repeated_parameters import RepeatedParameters
from services.api.periodic import PeriodicTask
from services.api.routes import (
    datasets,
    docs,
    events,
    generate,
    generated,
    health,
    interpolate,
    jobs,
    metrics,
    models,
    presets,
    sweeps,
    training_plots,
    verify,
)
from services.api.state import AppState, open_state
from services.api.sweeps.runner import INTERVAL_S
from services.security_headers import SecurityHeaders
from shared.errors import StoreUnavailable
from shared.settings import Settings, read_settings
from shared.storage.pubsub import Announcements

log = logging.getLogger("kiln.api")

JOB_THREADS = 128
REDIS_CHECK_S = 60.0
RESCAN_S = 5.0  # interval of the scan for models, in case an announcement was lost


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or read_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # While Redis hangs, each job route holds a thread until its timeout. All other routes need no such thread.
        current_default_thread_limiter().total_tokens = JOB_THREADS
        app.state.kiln = state = open_state(settings, app.state.drain)
        reaper = Reaper(state.store, state.broker, lease_s=settings.lease_s, max_attempts=settings.max_attempts)
        tasks = [
            PeriodicTask("reaper", reaper.run, settings.lease_s / 3),
            PeriodicTask("sweeps", state.sweep_runner.advance_all, INTERVAL_S),
            PeriodicTask("redis", state.store.require_no_eviction, REDIS_CHECK_S),  # logs the error
        ]
        if settings.keep_jobs_days is not None:
            clean_up = partial(
                delete_old_jobs, state.store, state.sweeps, state.artifacts, keep_days=settings.keep_jobs_days
            )
            tasks.append(PeriodicTask("retention", clean_up, RETENTION_S))
        for task in tasks:
            task.start()
        announcements = Announcements(settings.redis_url)
        watcher = asyncio.create_task(_watch_models(state, announcements))
        yield
        # In a loop: redis-py swallows a cancellation that arrives while it connects.
        while not watcher.done():
            watcher.cancel()
            await asyncio.wait({watcher}, timeout=0.5)
        await announcements.close()
        for task in tasks[::-1]:
            await asyncio.to_thread(task.stop)
        state.close()

    app = FastAPI(title="Kiln", summary="Train class-conditional GANs as durable jobs, and serve their images.",
                  lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)  # fmt: skip
    app.state.drain = Drain(settings.drain_s)
    app.state.routes = []
    errors.install(app)
    _add_middleware(app, settings)
    modules = (  # routes are matched in this order; the one whose speed matters most comes first
        generate, jobs, generated, events, training_plots, interpolate, verify, models, datasets, sweeps, presets,
        health, metrics, docs,
    )  # fmt: skip
    for module in modules:
        app.include_router(module.router)
        app.state.routes += module.router.routes
    openapi.install(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Adds the middleware from the innermost to the outermost."""
    app.add_middleware(RepeatedParameters)
    larger = {"/verify": settings.max_png_bytes}
    app.add_middleware(BodyLimit, settings.max_body_bytes, settings.body_timeout_s, larger, streamed="/datasets/")
    app.add_middleware(AuthorizeBody, settings.keys, app.state.routes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID"],
            expose_headers=["ETag", "Location", "Retry-After", "X-Kiln-Model", "X-Kiln-Seed", *CLASS_SAMPLING_HEADERS],
        )
    # A page that reaches the API by DNS rebinding has no key: with keys, any host is allowed by default.
    app.add_middleware(AllowedHosts, settings.allowed_hosts or (("*",) if settings.keys else ()))
    app.add_middleware(SecurityHeaders, headers=errors.SECURITY_HEADERS)
    app.add_middleware(CloseWhenDraining, drain=app.state.drain)


async def _watch_models(state: AppState, announcements: Announcements) -> None:
    """Keeps the model pool in step with the registry while the API runs. No exception ends it."""
    try:
        await asyncio.to_thread(publish_starter, state.registry, state.settings.starter)
    except Exception:
        log.exception("the starter model could not be published")
    while True:
        try:
            await state.models.refresh()
        except Exception:
            log.exception("the models could not be refreshed; the loaded ones stay in service")
        try:
            await announcements.wait(RESCAN_S)
        except StoreUnavailable:
            await asyncio.sleep(RESCAN_S)  # models are files, so the scan needs no Redis
