"""Retries of the clients: which requests are repeated, after how long, and how a stream of events is resumed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx2

from kiln import _requests
from kiln.errors import ApiError, Unavailable
from kiln.types import Event, JobData

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
STREAM_TIMEOUT_S = 60.0  # the server sends a keep-alive comment every 15 s
SAFE_POSTS = ("/generate", "/verify")


class Retry:
    """Exponential backoff with jitter for one request, up to `max_wait_s` seconds of waiting in total."""

    def __init__(self, call: _requests.Call[Any], max_wait_s: float) -> None:
        # Every request is idempotent except a POST that creates something without an Idempotency-Key.
        creates = call.method == "POST" and call.path.count("/") == 1 and call.path not in SAFE_POSTS
        self._is_repeatable = call.is_repeatable and (not creates or "Idempotency-Key" in call.headers)
        self._left_s, self._wait_s = max_wait_s, FIRST_WAIT_S

    def wait_s(self, error: Exception) -> float:
        """Seconds to wait before the next attempt. Raises `error` when no further attempt is worth it."""
        if isinstance(error, ApiError) and not isinstance(error, Unavailable):
            raise error
        wait_s = self._wait_s * random.uniform(0.5, 1.0)  # jitter: clients rejected together must not return together
        if isinstance(error, ApiError):
            wait_s = max(wait_s, error.retry_after_s or 0.0)
        if not self._is_repeatable or wait_s > self._left_s:
            raise error
        self._left_s -= wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        return wait_s


class EventStream:
    """Position in a job's stream of server-sent events, kept over reconnections."""

    def __init__(self, job_id: str, after: str, max_wait_s: float) -> None:
        self._call = _requests.events(job_id)
        self._last_id, self._max_wait_s = after, max_wait_s
        self._retry = Retry(self._call, max_wait_s)
        self.is_over = False
        self.reconnect_s = 2.0  # until the server sends its own `retry:`

    @property
    def request(self) -> dict[str, Any]:
        """Keyword arguments of httpx2's `stream`."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        return self._call.request | {"headers": headers, "timeout": httpx2.Timeout(STREAM_TIMEOUT_S)}

    def check(self, response: httpx2.Response) -> httpx2.Response:
        """The response itself. Raises ApiError; the body of an error must have been read."""
        if response.is_error:
            raise _requests.api_error(response)
        return response

    def parse(self, event: httpx2.ServerSentEvent) -> Iterator[Event | JobData]:
        self._retry = Retry(self._call, self._max_wait_s)  # the connection works, so the backoff starts again
        if event.retry is not None:
            self.reconnect_s = event.retry / 1000
        if event.event == "end":
            self.is_over = True
        elif event.event == "job":
            yield JobData.model_validate_json(event.data)
        elif event.data:
            self._last_id = event.id
            yield Event.model_validate_json(event.data)

    def wait_s(self, error: Exception) -> float:
        """As `Retry.wait_s`."""
        return self._retry.wait_s(error)
