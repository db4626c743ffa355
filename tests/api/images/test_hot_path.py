"""The short way of GET /generate says what the long way says, and leaves to it what is not plain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.middleware import hot_path
from shared.settings import Settings
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish, wait_until_ready

KEY = "0123456789abcdef"
QUERY: dict[str, Any] = {"class": "cat", "n": 3, "seed": 5}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that were answered the short way."""
    paths: list[str] = []
    send = hot_path._send

    async def noted(answer: Any, send_message: Any) -> None:
        paths.append(answer.media_type)
        await send(answer, send_message)

    monkeypatch.setattr(hot_path, "_send", noted)
    return paths


def both(client: TestClient, taken: list[str], query: dict[str, Any], **headers: str) -> list[httpx2.Response]:
    """The short way's answer and the long way's, which a body of no bytes takes."""
    short = client.get("/generate", params=query, headers=headers)
    assert len(taken) == 1
    long = client.get("/generate", params=query, headers=headers | {"content-length": "0"})
    assert len(taken) == 1
    return [short, long]


@pytest.mark.parametrize("more", [
    {}, {"format": "json"}, {"format": "zip"}, {"format": "npy"}, {"class": "cat,dog", "scale": 2}, {"class": "all"},
    {"truncation": 0.5, "columns": 1, "compress": "small"}, {"model": "first"}, {"model": "default", "first_index": 7},
])  # fmt: skip
def test_both_ways_say_the_same(more: dict[str, Any], served: TestClient, taken: list[str]) -> None:
    short, long = both(served, taken, QUERY | more)

    assert (short.status_code, short.content) == (200, long.content)
    assert sorted(short.headers.multi_items()) == sorted(long.headers.multi_items())


def test_so_do_they_of_what_the_client_has(served: TestClient, taken: list[str]) -> None:
    etag = served.get("/generate", params=QUERY).headers["etag"]
    taken.clear()

    short, long = both(served, taken, QUERY, **{"if-none-match": etag})

    assert (short.status_code, long.status_code) == (304, 304)
    assert sorted(short.headers.multi_items()) == sorted(long.headers.multi_items())


@pytest.mark.parametrize(("query", "status"), [
    ({"class": "dragon"}, 422), ({"class": "cat", "n": 0}, 422), ({"class": "cat", "colour": 1}, 422), ({}, 422),
    ({"class": "cat", "model": "nobody"}, 404),
])  # fmt: skip
def test_what_is_wrong_is_told_by_the_route(
    query: dict[str, Any], status: int, served: TestClient, taken: list[str]
) -> None:
    answer = served.get("/generate", params=query)

    assert (answer.status_code, taken) == (status, [])
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.fixture
def guarded(settings: Settings, registry: ModelRegistry) -> Iterator[TestClient]:
    publish(registry, "first")
    keys = {"api_keys": f"web:generate:{KEY},looker:read:{KEY[::-1]}"}
    with TestClient(create_app(Settings.model_validate(settings.model_dump() | keys))) as client:
        wait_until_ready(client)
        yield client


@pytest.mark.parametrize(("header", "status"), [
    (f"Bearer {KEY}", 200), (f"bearer {KEY}", 200), (f"Bearer {KEY[::-1]}", 403), (f"Bearer {KEY}0", 401),
    (f"Basic {KEY}", 401), (KEY, 401), (None, 401),
])  # fmt: skip
def test_nobody_gets_in_by_the_short_way_alone(
    header: str | None, status: int, guarded: TestClient, taken: list[str]
) -> None:
    answer = guarded.get("/generate", params=QUERY, headers={"authorization": header} if header else {})

    assert answer.status_code == status
    assert len(taken) == (status == 200)
