"""The Celery worker: takes a job id from the queue and passes it to the supervisor. Imports no torch.

Start it with `python -m celery -A services.trainer.tasks worker --pool threads --concurrency 1`: one job at a time, in
a thread of the main process, so that SIGTERM reaches the supervisor and the trainer is a direct child.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from services.trainer.worker.supervisor import Supervisor
from shared.errors import StoreUnavailable
from shared.jobs.store import RedisJobStore
from shared.settings import read_settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.celery_app import TRAINING_TASK, make_celery
from shared.storage.model_registry import ModelRegistry

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

log = logging.getLogger("kiln.worker")
settings = read_settings()
app = make_celery(settings)
_leaving = threading.Event()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: Any) -> None:
    _leaving.set()


@worker_ready.connect  # type: ignore[untyped-decorator]
def _on_ready(**_: Any) -> None:
    with closing(RedisJobStore(settings.redis_url)) as store:
        try:
            store.require_no_eviction()
        except StoreUnavailable as error:
            log.error("%s", error)


@app.task(name=TRAINING_TASK)  # type: ignore[untyped-decorator]
def train(job_id: str) -> None:
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    with closing(RedisJobStore(settings.redis_url)) as store:
        Supervisor(store, registry, settings, _leaving).supervise(job_id)
