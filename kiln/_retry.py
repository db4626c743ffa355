"""How long the clients wait before they say something again, and where a stream of events was left."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx2

from kiln import _requests as wire
from shared.jobs.record import Event

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


class Retry:
    """How long to wait before a call is made again; raises the error when that is of no use."""

    def __init__(self, call: wire.Call[Any], max_wait_s: float) -> None:
        # Everything that Kiln offers may be said twice, but a POST without a key to know it by.
        self._may_repeat = call.method != "POST" or "Idempotency-Key" in call.headers or call.path.count("/") > 1
        self._may_repeat = self._may_repeat or call.path in ("/generate", "/verify")  # these change nothing
        self._left_s, self._wait_s = max_wait_s, FIRST_WAIT_S

    def wait_s(self, error: Exception) -> float:
        if isinstance(error, wire.ApiError) and not isinstance(error, wire.Unavailable):
            raise error
        # Jitter, or all that were turned away together would come back together.
        wait_s = self._wait_s * random.uniform(0.5, 1.0)
        if isinstance(error, wire.ApiError):
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        if not self._may_repeat or wait_s > self._left_s:
            raise error
        self._left_s -= wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        return wait_s


class EventStream:
    """The state of following a job: where the stream was left, whether it is over."""

    def __init__(self, job_id: str, after: str, max_wait_s: float) -> None:
        self._call = wire.Call("GET", f"/jobs/{wire.part(job_id)}/events", lambda answer: answer.json())
        self._last_id, self._max_wait_s = after, max_wait_s
        self._retry = Retry(self._call, max_wait_s)
        self.is_over = False
        self.pause_s = 2.0  # before coming back to a stream that ended too early; the API may say otherwise

    @property
    def request(self) -> dict[str, Any]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        return self._call.request | {"headers": headers, "timeout": httpx2.Timeout(60.0)}

    def accept(self, answer: httpx2.Response) -> httpx2.Response:
        """Raises wire.ApiError; the body of an error must have been read."""
        if answer.is_error:
            raise wire.error_of(answer)
        return answer

    def take(self, event: httpx2.ServerSentEvent) -> Iterator[Event | wire.JobData]:
        self._retry = Retry(self._call, self._max_wait_s)  # it speaks, so patience begins anew
        if event.retry is not None:
            self.pause_s = event.retry / 1000
        if event.event == "end":
            self.is_over = True
        elif event.event == "job":
            yield wire.JobData.model_validate_json(event.data)
        elif event.data:
            self._last_id = event.id
            yield Event.model_validate_json(event.data)

    def wait_s(self, error: Exception) -> float:
        return self._retry.wait_s(error)
