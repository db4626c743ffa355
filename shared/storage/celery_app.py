"""The queue between API and workers: Celery on Redis. A message contains a job's id and nothing else.

A worker acknowledges a message when it takes it, not when the work is done. With late acknowledgement, Redis would
deliver a message again after the visibility timeout, while its job still trains. The reaper detects lost jobs by their
lease.
"""

from __future__ import annotations

from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.errors import StoreUnavailable
from shared.redis_url import celery_url
from shared.settings import Settings

TRAINING_QUEUE = "kiln.training"
TRAINING_TASK = "kiln.train"


def make_celery(settings: Settings) -> Any:
    app = Celery("kiln", broker=celery_url(settings.redis_url))
    app.conf.update(
        task_default_queue=TRAINING_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        # A worker that trains for hours must not hold a message that another worker could start with.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Jobs are cancelled through their record, so Celery's remote control stays off.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 10, "socket_keepalive": True},
    )
    return app


class Broker:
    """The sending side of the queue."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery(settings)
        # A request must not wait while kombu retries a dead broker; the reaper sends recorded jobs later.
        self._app.conf.broker_transport_options |= {
            "max_retries": 1, "interval_start": 0, "interval_step": 0, "socket_connect_timeout": 1, "socket_timeout": 1,
        }  # fmt: skip
        # Celery stores a queue in Redis as a list under the queue's name.
        self._redis: Any = redis.Redis.from_url(
            settings.redis_url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )

    def enqueue_training(self, job_id: str) -> None:
        """Sends the job's message. A duplicate is harmless: a job is claimed once. Raises StoreUnavailable."""
        try:
            self._app.send_task(TRAINING_TASK, [job_id], queue=TRAINING_QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise StoreUnavailable(f"the queue does not answer: {error}") from error

    def waiting(self) -> int:
        """The number of messages that no worker has taken yet. Raises StoreUnavailable."""
        try:
            return int(self._redis.llen(TRAINING_QUEUE))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"the queue does not answer: {error}") from error

    def close(self) -> None:
        self._app.close()
        self._redis.close()
