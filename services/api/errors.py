"""From exceptions to RFC 9457 problem documents: one table, and no other place that knows a status code of an error."""

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
from services.api.middleware.security_headers import HEADERS
from shared import errors
from shared.errors import FieldProblem, KilnError, printable

CLIENT_GONE = 499  # nginx's number for it; HTTP has none
PROBLEM_JSON = "application/problem+json"

# The most derived class that is listed decides. A test proves that every KilnError the API can meet is covered.
STATUS: dict[type[KilnError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.IdempotencyMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CorruptArtifact: HTTPStatus.SERVICE_UNAVAILABLE,
    # Workers' errors, which no route raises; here so that the table is complete.
    errors.StaleFence: HTTPStatus.CONFLICT,
    errors.TrainingFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: KilnError) -> HTTPStatus:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def install(app: FastAPI) -> None:
    app.add_exception_handler(KilnError, _on_kiln_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnected, _on_client_gone)
    app.add_exception_handler(Exception, _on_bug)


def problem(
    status: HTTPStatus, detail: str, problems: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    if problems:
        body["errors"] = [p.as_json() for p in problems]
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=PROBLEM_JSON)


async def _on_kiln_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, KilnError)
    problems = error.problems if isinstance(error, errors.InvalidInput) else ()
    return problem(status_of(error), str(error), problems, _headers(error))


def _headers(error: KilnError) -> dict[str, str]:
    if isinstance(error, errors.CorruptArtifact):
        return {"Retry-After": "60"}  # somebody has to put it right
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
        detail = f"there is nothing at {printable(request.url.path)}"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not allowed at {printable(request.url.path)}"
        return problem(status, detail, headers={"Allow": ", ".join(_methods_at(request))})
    return problem(status, detail, headers=error.headers)


def _methods_at(request: Request) -> list[str]:
    """All of them: starlette names those of the first route that it finds."""
    found: set[str] = set()
    for route in request.app.state.routes:
        match, _ = route.matches(request.scope)
        found |= route.methods if match is not Match.NONE else set()
    return sorted(found)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)  # for middleware that counts; there is nobody to send it to


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    # What it says stays in the log: it may name files or hold values that are nobody's business.
    # It is sent from outside of all other middleware, which would have added the headers.
    detail = "something broke in Kiln; the log of the API says what"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, headers=HEADERS)


def _field_problem(details: Mapping[str, Any]) -> FieldProblem:
    where, *path = details["loc"]
    if path[:1] == ["space"]:
        del path[2:3]  # the kind of range, by which pydantic chose a model: `space.lr.float.low` is `space.lr.low`
    if details["type"] == "json_invalid":
        return FieldProblem("body", details.get("input"), f"not JSON: {details['ctx']['error']} at character {path[0]}")
    field = ".".join(str(part) for part in path) or str(where)
    if details["type"] == "missing":
        return FieldProblem(field, None, "this field is required")
    message = "there is no such parameter" if details["type"] == "extra_forbidden" else str(details["msg"])
    return FieldProblem(field, details.get("input"), message)
