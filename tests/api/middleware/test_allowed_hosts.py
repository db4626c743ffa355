"""A web page cannot reach a local API without keys under a host name of its own (DNS rebinding)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from shared.errors import InvalidInput
from shared.settings import Settings, read_settings
from tests.api.test_bad_input import assert_problem

KEY = "reader-0123456789abcdef"
Status = Callable[..., int]


@pytest.fixture
def status(settings: Settings) -> Status:
    """The status of GET /healthz for a `Host` header, with some settings changed."""

    def get(host: str, **changes: Any) -> int:
        changed = Settings(**settings.model_dump() | {"redis_url": settings.redis_url} | changes)
        return TestClient(create_app(changed)).get("/healthz", headers={"Host": host}).status_code

    return get


@pytest.mark.parametrize(
    "host",
    ["rebound.example.org", "rebound.example.org:8000", "127.0.0.1.nip.io", "localhost.evil.com", "a@b.com", "[x"],
)
def test_a_foreign_host_is_refused_without_keys(status: Status, host: str) -> None:
    assert status(host) == 421


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000", "192.168.1.20", "api:8000",
        "gpu-box.local", "host.docker.internal:8000", "testserver",
    ],
)  # fmt: skip
def test_local_hosts_are_allowed(status: Status, host: str) -> None:
    assert status(host) == 200


def test_configured_hosts_are_allowed(status: Status) -> None:
    some = {"allowed_hosts": ("kiln.example.org", "*.lab.example.org")}
    hosts = ["kiln.example.org:8000", "Kiln.Example.Org", "a.lab.example.org", "lab.example.org", "other.example.org"]
    assert [status(host, **some) for host in hosts] == [200, 200, 200, 421, 421]
    assert status("anything.example.org", allowed_hosts=("*",)) == 200


def test_an_api_with_keys_allows_any_host_unless_configured(status: Status) -> None:
    assert status("kiln.example.org", api_keys=f"ci:read:{KEY}") == 200
    assert status("kiln.example.org", api_keys=f"ci:read:{KEY}", allowed_hosts=("a.example.org",)) == 421


def test_the_refusal_names_the_host_and_the_setting(client: TestClient) -> None:
    answer = client.post("/jobs", json={"preset": "tiny"}, headers={"Host": "rebound.example.org"})

    detail = assert_problem(answer, 421)["detail"]
    assert "'rebound.example.org'" in detail
    assert "KILN_ALLOWED_HOSTS" in detail
    assert client.get("/jobs").json()["data"] == []


def test_allowed_hosts_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_ALLOWED_HOSTS", "kiln.example.org, *.lab.example.org")
    assert read_settings().allowed_hosts == ("kiln.example.org", "*.lab.example.org")
    monkeypatch.setenv("KILN_ALLOWED_HOSTS", "http://kiln.example.org")
    with pytest.raises(InvalidInput, match="is not a host name"):
        read_settings()
