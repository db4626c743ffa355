"""The exceptions that the Python client raises.

KilnError
├── InvalidSetting       KILN_URL or KILN_API_KEY has an invalid value
└── ApiError             the API refused a request; carries status, title, detail and `problems`
    ├── InvalidInput     422: `problems` names each wrong field, its value and the reason
    ├── Unauthorized     401 or 403: the key is missing, unknown, or lacks a scope
    ├── NotFound         404
    ├── Conflict         409: the state of the job, model or sweep does not allow the request
    └── Unavailable      429 or 503, after all retries
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class KilnError(Exception):
    """Base class of the client's own errors. Without a response, it raises httpx2.TransportError instead."""


class InvalidSetting(KilnError):
    """KILN_URL or KILN_API_KEY, or the argument that replaces it, is invalid."""


class ApiError(KilnError):
    """The API answered with an error (RFC 9457 problem document)."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status, self.retry_after_s = status, retry_after_s
        self.title, self.detail = str(body.get("title", "")), str(body.get("detail", ""))
        self.problems: Sequence[Mapping[str, Any]] = body.get("errors", ())
        super().__init__(f"{status} {self.title}: {self.detail}")


class InvalidInput(ApiError):
    """422: some fields have invalid values; `problems` names each of them."""


class Unauthorized(ApiError):
    """401 or 403: set KILN_API_KEY to a key that has the scope for this request."""


class NotFound(ApiError):
    """404: no job, model, preset, sweep or alias has this name."""


class Conflict(ApiError):
    """409: the request is valid, but the state of the job, model or sweep does not allow it."""


class Unavailable(ApiError):
    """429 or 503: the server is overloaded, has no model loaded, or cannot reach Redis. A later retry may succeed."""


ERRORS: dict[int, type[ApiError]] = {
    401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict, 422: InvalidInput, 429: Unavailable,
    503: Unavailable,
}  # fmt: skip
