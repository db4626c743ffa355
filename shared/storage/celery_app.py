"""The queue between API and workers: Celery on Redis. A message carries a job's id and nothing else.

Messages are acknowledged when they are taken, not when the work is done: with Redis, a late acknowledgement delivers
anything that runs longer than the visibility timeout a second time. Lost work is the lease's and the reaper's business.
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
from shared.settings import Settings

TRAINING_QUEUE = "kiln.training"
TRAINING_TASK = "kiln.train"


def make_celery(settings: Settings) -> Any:
    app = Celery("kiln", broker=settings.redis_url)
    app.conf.update(
        task_default_queue=TRAINING_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        # A worker that trains for hours must not sit on a message that another one could start with now.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Jobs are cancelled through their record; Celery's own remote control is not needed and not offered.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 10, "socket_keepalive": True},
    )
    return app


class Broker:
    """The sending side."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery(settings)
        # A request must not wait for kombu to try a dead broker again and again; the reaper sends what was recorded.
        self._app.conf.broker_transport_options |= {
            "max_retries": 1, "interval_start": 0, "interval_step": 0, "socket_connect_timeout": 1, "socket_timeout": 1,
        }  # fmt: skip
        # Celery's Redis transport keeps a queue as a list under the queue's own name.
        self._redis: Any = redis.Redis.from_url(
            settings.redis_url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )

    def enqueue_training(self, job_id: str) -> None:
        """Raises StoreUnavailable when the broker does not answer. Sending twice is harmless: a job is claimed once."""
        try:
            self._app.send_task(TRAINING_TASK, [job_id], queue=TRAINING_QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise StoreUnavailable(f"the queue does not answer: {error}") from error

    def waiting(self) -> int:
        """Messages that no worker has taken yet. Raises StoreUnavailable."""
        try:
            return int(self._redis.llen(TRAINING_QUEUE))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"the queue does not answer: {error}") from error

    def close(self) -> None:
        self._app.close()
        self._redis.close()
