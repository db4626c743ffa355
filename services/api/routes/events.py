"""/jobs/{id}/events: a job's events, as a list or as a live stream."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from services.api.auth import READ
from services.api.jobs.event_stream import stream_job_events
from services.api.schemas.jobs import EVENT_ID, EventList, EventsQuery
from services.api.state import State

router = APIRouter(prefix="/jobs", tags=["jobs"])

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=EVENT_ID)]


@router.get(
    "/{job_id}/events", response_model=EventList, responses={200: {"content": {"text/event-stream": {}}}},
    dependencies=[READ],
)  # fmt: skip
async def get_events(
    job_id: str,
    query: Annotated[EventsQuery, Query()],
    request: Request,
    state: State,
    last_event_id: LastEventId = None,
) -> Any:
    """Returns the job's events, oldest first. With `Accept: text/event-stream`, streams them until the job is over.

    After each change, the stream sends `event: job` with the job as in GET /jobs/{id}. It ends with `event: end`.
    The header Last-Event-ID, which browsers send when they reconnect, takes precedence over `after`.
    """
    await run_in_threadpool(state.store.get, job_id)
    after = last_event_id or query.after or ""
    if "text/event-stream" in request.headers.get("accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = stream_job_events(job_id, after, state.store, state.settings.redis_url, state.drain)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
    events = await run_in_threadpool(state.store.events, job_id, after)
    return EventList(data=list(events[: query.limit]), has_more=len(events) > query.limit)
