"""Maps exceptions to RFC 9457 problem documents; the table here is the only place with HTTP status codes of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from services.api.middleware.disconnect import ClientDisconnected
from services.api.schemas.generated import GENERATE_TAG, TRAIN_TAG
from shared import errors
from shared.errors import FieldProblem, KilnError, printable

CLIENT_CLOSED_REQUEST = 499  # as in nginx; HTTP defines none
PROBLEM_JSON = "application/problem+json"

SECURITY_HEADERS = {
    # Responses are data: they load nothing, run no script and belong in no frame. /docs is a page and sets its own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Jobs and aliases change, and access depends on the key. Routes with immutable responses set their own.
    "Cache-Control": "no-store",
}

# An exception uses the entry of its most derived class listed here. A test proves that the table is complete.
STATUS: dict[type[KilnError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.IdempotencyMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.CorruptArtifact: HTTPStatus.SERVICE_UNAVAILABLE,
    # No route raises these errors of workers; they are here to complete the table.
    errors.StaleFence: HTTPStatus.CONFLICT,
    errors.TrainingFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: KilnError) -> HTTPStatus:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def install(app: FastAPI) -> None:
    app.add_exception_handler(KilnError, _on_kiln_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnected, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)


def problem(
    status: HTTPStatus, detail: str, problems: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    if problems:
        body["errors"] = [p.as_json() for p in problems]
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=PROBLEM_JSON)


def problem_of(error: KilnError) -> JSONResponse:
    problems = error.problems if isinstance(error, errors.InvalidInput) else ()
    return problem(status_of(error), str(error), problems, _headers(error))


async def _on_kiln_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, KilnError)
    return problem_of(error)


def _headers(error: KilnError) -> dict[str, str]:
    if isinstance(error, errors.CorruptArtifact):
        return {"Retry-After": "60"}  # an operator has to repair it
    if isinstance(error, errors.BodyTooLarge | errors.BodyTooSlow):
        return {"Connection": "close"}  # the rest of the body stays unread
    if isinstance(error, errors.Unavailable):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="kiln"'}
    if isinstance(error, errors.Forbidden):
        return {"WWW-Authenticate": f'Bearer realm="kiln", error="insufficient_scope", scope="{error.scope}"'}
    return {}


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [_field_problem(details) for details in error.errors()]
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(errors.InvalidInput(problems)), problems)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = str(error.detail)
    if status is HTTPStatus.NOT_FOUND:
        detail = f"no such path: {printable(request.url.path)}"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not allowed at {printable(request.url.path)}"
        return problem(status, detail, headers={"Allow": ", ".join(_methods_at(request))})
    return problem(status, detail, headers=error.headers)


def _methods_at(request: Request) -> list[str]:
    """The methods of all routes with this path; Starlette's own `Allow` header has those of the first route only."""
    routes = [route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in route.methods})


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # for logs and middleware; the client has disconnected


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    # The exception's text stays in the log: it may contain file names and other private values.
    # Starlette sends this response outside of all middleware, so it needs its own security headers.
    detail = "internal error; the log of the API has the traceback"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, headers=SECURITY_HEADERS)


def _field_problem(details: Mapping[str, Any]) -> FieldProblem:
    location, *path = details["loc"]
    if path[:1] in ([TRAIN_TAG], [GENERATE_TAG]):
        del path[0]
    if path[:1] == ["space"]:
        del path[2:3]  # the tag of pydantic's union: `space.lr.float.low` is `space.lr.low` in the request
    if details["type"] == "json_invalid":
        return FieldProblem("body", details.get("input"), f"not JSON: {details['ctx']['error']} at character {path[0]}")
    field = ".".join(str(part) for part in path) or str(location)
    if details["type"] == "missing":
        return FieldProblem(field, None, "this field is required")
    message = "unknown field" if details["type"] == "extra_forbidden" else str(details["msg"])
    return FieldProblem(field, details.get("input"), message)
