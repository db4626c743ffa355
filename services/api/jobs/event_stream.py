"""Streams a job's events as server-sent events. Announcements of the job store start each read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from services.api.middleware.draining import Drain
from services.api.schemas.jobs import JobView
from shared.errors import StoreUnavailable, UnknownJob
from shared.jobs.record import Event, Job
from shared.jobs.store import JobStore
from shared.storage.pubsub import Announcements, channel_of

KEEPALIVE_S = 15.0  # proxies close idle connections
RETRY_MS = 2000  # how long a client waits before it reconnects


async def stream_job_events(
    job_id: str, after: str, store: JobStore, redis_url: str, drain: Drain
) -> AsyncIterator[bytes]:
    """Yields the job's events after the id `after` and each new one, and `event: job` after each change of the job.

    Events have ids, so a client that reconnects with Last-Event-ID misses none. `event: job` has no id, because only
    the latest one matters. The stream ends with `event: end` when the job is over, and without it when Redis fails.
    """
    changes = Announcements(redis_url, channel_of(job_id))
    sent: Job | None = None
    yield format_sse_event(retry=RETRY_MS)
    try:
        while True:
            job, events = await run_in_threadpool(_read, job_id, after, store)
            for event in events:
                after = event.id
                yield format_sse_event(event=event.kind, id=event.id, data_str=event.model_dump_json())
            if job != sent:
                yield format_sse_event(event="job", data_str=JobView.of(job).model_dump_json())
            else:
                yield KEEPALIVE_COMMENT
            sent = job
            if job.is_over:
                yield format_sse_event(event="end", data_str="{}")
                return
            if drain.is_on:
                return  # the client reconnects with Last-Event-ID, to another process
            await drain.wait_until_draining(changes.wait(KEEPALIVE_S))
    except (StoreUnavailable, UnknownJob):  # UnknownJob: the job was deleted meanwhile
        return
    finally:
        await changes.close()


def _read(job_id: str, after: str, store: JobStore) -> tuple[Job, Sequence[Event]]:
    # The job first: a job that is over gets no more events, so none can be missed between the two reads.
    job = store.get(job_id)
    return job, store.events(job_id, after)
