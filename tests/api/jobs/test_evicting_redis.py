"""A Redis that may evict keys would lose accepted jobs: Kiln says so and accepts none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis
from fastapi.testclient import TestClient

from services.api.app import create_app
from shared.errors import EvictingStore
from shared.settings import Settings
from shared.storage.redis import connect, require_no_eviction
from tests.processes import wait_for

SWEEP = {"preset": "tiny", "space": {"lr": {"type": "float", "low": 1e-4, "high": 1e-3}}, "n_trials": 2,
         "objective": {"metric": "loss_g", "direction": "minimize"}}  # fmt: skip


def check(redis_url: str) -> None:
    with closing(connect(redis_url)) as client:
        require_no_eviction(client)


def set_policy(redis_url: str, policy: str) -> None:
    with redis.Redis.from_url(redis_url) as administrator:
        administrator.config_set("maxmemory-policy", policy)


@pytest.fixture(params=["allkeys-lru", "volatile-ttl"])
def policy(request: pytest.FixtureRequest, redis_url: str) -> Iterator[str]:
    """The policy of a Redis that evicts keys."""
    set_policy(redis_url, request.param)
    yield request.param
    set_policy(redis_url, "noeviction")


@pytest.mark.parametrize(("path", "body"), [("/jobs", {"preset": "tiny"}), ("/sweeps", SWEEP)])
def test_an_evicting_redis_is_given_no_job(
    path: str, body: dict[str, object], client: TestClient, policy: str, redis_url: str
) -> None:
    # When a job or a sweep is submitted
    refused = client.post(path, json=body)

    # Then it is refused, with the reason and the way out, and nothing is stored
    assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
    assert f"maxmemory-policy is {policy}" in refused.json()["detail"]
    assert "CONFIG SET maxmemory-policy noeviction" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) == 60
    assert client.get("/jobs").json()["data"] == client.get("/sweeps").json()["data"] == []

    # And once the administrator has changed the policy, it is accepted
    set_policy(redis_url, "noeviction")
    assert client.post(path, json=body).status_code == 202


def test_an_evicting_redis_is_a_warning_of_readyz_and_images_are_still_served(
    serving: TestClient, redis_url: str
) -> None:
    assert serving.get("/readyz").json()["warnings"] == []

    set_policy(redis_url, "allkeys-lfu")
    try:
        ready = serving.get("/readyz")
        (warning,) = ready.json()["warnings"]
        assert ready.status_code == serving.get("/generate?class=cat").status_code == 200
        assert "maxmemory-policy is allkeys-lfu" in warning
    finally:
        set_policy(redis_url, "noeviction")


def test_an_evicting_redis_is_in_the_log_from_the_start(
    settings: Settings, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), TestClient(create_app(settings)):
        wait_for(lambda: caplog.text, lambda text: f"maxmemory-policy is {policy}" in text)


def test_a_redis_that_hides_its_policy_is_trusted(redis_url: str) -> None:
    """Some managed services forbid INFO; their users must not be locked out."""
    with redis.Redis.from_url(redis_url) as administrator:
        administrator.config_set("maxmemory-policy", "allkeys-lru")
        administrator.acl_setuser(
            "limited", enabled=True, passwords=["+secret"], commands=["+@all", "-info"], keys=["*"]
        )
    try:
        with pytest.raises(EvictingStore):
            check(redis_url)
        check(redis_url.replace("//", "//limited:secret@"))
    finally:
        with redis.Redis.from_url(redis_url) as administrator:
            administrator.config_set("maxmemory-policy", "noeviction")
            administrator.acl_deluser("limited")
