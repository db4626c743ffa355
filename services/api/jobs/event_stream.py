"""A job's events as they happen: server-sent events out of the store, woken by announcements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from services.api.schemas.jobs import JobView
from services.api.state import AppState
from shared.errors import StoreUnavailable
from shared.jobs.record import Event, Job
from shared.storage.pubsub import Announcements, channel_of

KEEPALIVE_S = 15.0  # proxies cut connections on which nothing moves
RETRY_MS = 2000  # how long a client waits before it comes back, after a connection that ended too early


async def follow(job_id: str, after: str, state: AppState) -> AsyncIterator[bytes]:
    """The job's events after that id, then each new one; between them the job itself whenever it has changed.

    Events carry an id, so a client that comes back with Last-Event-ID misses none. `event: job` carries none: what
    counts is the latest. The stream ends with `event: end` when the job is over, and without it when Redis is gone.
    """
    changes = Announcements(state.settings.redis_url, channel_of(job_id))
    seen: Job | None = None
    yield format_sse_event(retry=RETRY_MS)
    try:
        while True:
            job, events = await asyncio.to_thread(_read, job_id, after, state)
            for event in events:
                after = event.id
                yield format_sse_event(event=event.kind, id=event.id, data_str=event.model_dump_json())
            if job != seen:
                yield format_sse_event(event="job", data_str=JobView.of(job).model_dump_json())
            else:
                yield KEEPALIVE_COMMENT
            seen = job
            if job.is_over:
                yield format_sse_event(event="end", data_str="{}")
                return
            if state.drain.is_on:
                return  # the client comes back with Last-Event-ID, and meets somebody who stays
            await state.drain.wait_until_draining(changes.wait(KEEPALIVE_S))
    except StoreUnavailable:
        return
    finally:
        await changes.close()


def _read(job_id: str, after: str, state: AppState) -> tuple[Job, Sequence[Event]]:
    # The job first: a job that is over gets no more events, so none can come between the two.
    job = state.store.get(job_id)
    return job, state.store.events(job_id, after)
