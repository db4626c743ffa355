"""A query route answers exactly as FastAPI's own route would."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from services.api import errors
from services.api.app import create_app
from services.api.query_route import QueryRoute
from services.api.routes import generate
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish, wait_until_ready

KEY = "0123456789abcdef"
READER = KEY[::-1]


@pytest.fixture
def both(settings: Settings, registry: ModelRegistry) -> Iterator[list[TestClient]]:
    """The API, and an application with the same endpoint in a route of FastAPI's own class. Both require keys."""
    publish(registry, "first")
    keys = {"api_keys": f"web:generate:{KEY},looker:read:{READER}"}
    api = create_app(Settings(**settings.model_dump() | {"redis_url": settings.redis_url} | keys))
    plain, router = FastAPI(), APIRouter()
    (route,) = (r for r in generate.router.routes if isinstance(r, QueryRoute) and r.endpoint is generate.generate)
    router.add_api_route(
        "/generate", generate.generate, response_class=route.response_class, dependencies=route.dependencies
    )
    plain.include_router(router)
    errors.install(plain)
    with TestClient(api, raise_server_exceptions=False) as client:
        wait_until_ready(client)
        plain.state.kiln = api.state.kiln
        plain.state.routes = router.routes
        yield [client, TestClient(plain, raise_server_exceptions=False)]


def same(both: list[TestClient], query: str, headers: dict[str, str]) -> httpx2.Response:
    ours, theirs = (client.get(f"/generate?{query}", headers=headers) for client in both)
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    for name in ("etag", "content-type", "www-authenticate", "x-kiln-seed", "x-kiln-model"):
        assert ours.headers.get(name) == theirs.headers.get(name)
    return ours


@pytest.mark.parametrize(("query", "status"), [
    ("class=cat&seed=1", 200), ("class=cat%2Cdog&seed=1&n=3&format=zip", 200), ("class=caf%C3%A9&seed=1", 422),
    ("class=all&seed=1&scale=2&compress=small", 200), ("", 422), ("class=", 422), ("class=cat&n=0&scale=x", 422),
    ("class=cat&colour=1&hue=2", 422), ("class=cat&model=nobody", 404), ("class=dragon", 422), ("class=cat&seed=", 422),
    ("class=cat&n=1e3", 422), ("class=cat&n=%31&seed=%2B1", 200), ("class=cat&truncation=nan", 422),
])  # fmt: skip
def test_the_response_to_a_query_is_the_same(query: str, status: int, both: list[TestClient]) -> None:
    response = same(both, query, {"Authorization": f"Bearer {KEY}"})

    assert response.status_code == status
    assert (response.headers["content-type"] == "application/problem+json") == (status != 200)


@pytest.mark.parametrize(("header", "status"), [
    (f"Bearer {KEY}", 200), (f"bearer {KEY}", 200), (f"Bearer {READER}", 403), (f"Bearer {KEY}0", 401),
    (f"Basic {KEY}", 401), (KEY, 401), (None, 401),
])  # fmt: skip
def test_keys_and_scopes_are_checked_in_the_same_way(header: str | None, status: int, both: list[TestClient]) -> None:
    response = same(both, "class=cat&seed=1", {"Authorization": header} if header else {})

    assert response.status_code == status


def test_if_none_match_is_read_in_the_same_way(both: list[TestClient]) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    etag = both[0].get("/generate?class=cat&seed=1", headers=key).headers["etag"]

    assert same(both, "class=cat&seed=1", key | {"If-None-Match": etag}).status_code == 304
    assert same(both, "class=cat&seed=2", key | {"If-None-Match": etag}).status_code == 200
