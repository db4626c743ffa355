"""Cancels the work for a request when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

Result = TypeVar("Result")


class ClientDisconnected(Exception):
    """The client closed the connection before its response was ready."""


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits `work`, and cancels it when the client closes the connection. -> the result of `work`

    Raises ClientDisconnected after a cancellation, and every exception of `work`. Read the request's body before this
    call, because it discards all messages that it receives.
    """
    working = asyncio.current_task()
    is_over = False

    def cancel_work(watching: asyncio.Future[None]) -> None:
        if working is not None and not is_over and not watching.cancelled():
            working.cancel()

    # `work` runs in this task: a task of its own would cost as much as the rest of a small request.
    watching = asyncio.ensure_future(_disconnected(request))
    watching.add_done_callback(cancel_work)
    try:
        return await work
    except asyncio.CancelledError:
        if working is None or not watching.done() or watching.cancelled():
            raise  # this task was cancelled from elsewhere
        working.uncancel()
        raise ClientDisconnected from None
    finally:
        is_over = True
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
