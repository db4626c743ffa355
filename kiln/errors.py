"""The exceptions that the Python client raises.

KilnError
├── InvalidSetting       KILN_URL or KILN_API_KEY has a value that cannot be used
└── ApiError             the API refused a request; carries status, title, detail and `problems`
    ├── InvalidInput     422: `problems` names each wrong field, its value and the reason
    ├── Unauthorized     401 or 403: the key is missing, unknown, or lacks a scope
    ├── NotFound         404
    ├── Conflict         409: the request does not fit the present state of the job, model or sweep
    └── Unavailable      429 or 503, after all retries
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class KilnError(Exception):
    """Base class of the errors that the client raises itself; httpx2.TransportError means no answer at all."""


class InvalidSetting(KilnError):
    """KILN_URL, KILN_API_KEY, or the argument in its place, cannot be used."""


class ApiError(KilnError):
    """The API answered with an error (RFC 9457 problem document)."""

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status, self.retry_after_s = status, retry_after_s
        self.title, self.detail = str(body.get("title", "")), str(body.get("detail", ""))
        self.problems: Sequence[Mapping[str, Any]] = body.get("errors", ())
        super().__init__(f"{status} {self.title}: {self.detail}")


class InvalidInput(ApiError):
    """422: some fields have values that cannot be used; `problems` names each of them."""


class Unauthorized(ApiError):
    """401 or 403: set KILN_API_KEY to a key that has the scope for this request."""


class NotFound(ApiError):
    """404: no job, model, preset, sweep or alias has this name."""


class Conflict(ApiError):
    """409: the request is valid, but the job, model or sweep is not in a state for it."""


class Unavailable(ApiError):
    """429 or 503: the server is overloaded, has no model loaded, or cannot reach Redis. Worth a retry."""


ERRORS: dict[int, type[ApiError]] = {
    401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict, 422: InvalidInput, 429: Unavailable,
    503: Unavailable,
}  # fmt: skip
