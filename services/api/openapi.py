"""Completes FastAPI's OpenAPI document with the problem responses of every route."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from services.api.errors import PROBLEM_JSON

PROBLEM = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "One entry for each field that is wrong.",
            "items": {
                "type": "object",
                "required": ["field", "value", "message"],
                "properties": {"field": {"type": "string"}, "value": {}, "message": {"type": "string"}},
            },
        },
    },
}
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}
}
CHALLENGE = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
HEADERS = {
    HTTPStatus.SERVICE_UNAVAILABLE: RETRY_AFTER,
    HTTPStatus.UNAUTHORIZED: CHALLENGE,
    HTTPStatus.FORBIDDEN: CHALLENGE,
}


# OpenAPI links of GET /models. (Clients find those of jobs by `Location` and ids.)
MODEL_LINKS = {
    name: {"operationId": f"{name}_get", "parameters": {"model_id": "$response.body#/data/0/manifest/id"}}
    for name in (
        "get_model_models__model_id_",
        "get_preview_models__model_id__preview_png",
        "get_neighbours_models__model_id__neighbours_png",
    )
}


def install(app: FastAPI) -> None:
    """Replaces `app.openapi` by a function that completes the document once."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = derive()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = PROBLEM
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    for parameter in operation.get("parameters", ()):
                        _remove_null(parameter)
                    for status in _problems(path, method, operation):
                        operation["responses"][str(status.value)] = _response(status)
            document["paths"]["/models"]["get"]["responses"]["200"]["links"] = MODEL_LINKS
        assert app.openapi_schema is not None  # `derive` stores it there
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _remove_null(parameter: dict[str, Any]) -> None:
    """Removes null from an optional parameter's schema: it can be omitted, but a URL or a header cannot hold null."""
    schema = parameter["schema"]
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])


def _problems(path: str, method: str, operation: dict[str, Any]) -> Iterator[HTTPStatus]:
    """The error statuses of an operation, derived from its path, method and parameters."""
    if operation.get("security"):
        yield from (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    if operation.get("security") or path == "/readyz":
        yield HTTPStatus.SERVICE_UNAVAILABLE
    if "{" in path or path in ("/generate", "/interpolate", "/compare"):
        yield HTTPStatus.NOT_FOUND
    if "requestBody" in operation:
        yield from (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT)
    if method != "get":
        yield from (HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if "requestBody" in operation or operation.get("parameters"):
        yield HTTPStatus.UNPROCESSABLE_ENTITY


def _response(status: HTTPStatus) -> dict[str, Any]:
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    headers = {"headers": HEADERS[status]} if status in HEADERS else {}
    return {"description": status.phrase, "content": content, **headers}
