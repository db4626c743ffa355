"""Drills: Redis behind a unix socket, behind TLS with a private CA, and with a policy that evicts keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from services.dev import free_port
from tests.drills.harness import ENDLESS, Kiln
from tests.drills.report import Drill
from tests.processes import wait_for
from tests.shared.redis_servers import make_certificates

pytestmark = pytest.mark.timeout(900)

BODY = {"preset": "tiny", "dataset": "colors", "overrides": ENDLESS}


def assert_a_job_survives_a_restart_of_redis(kiln: Kiln) -> None:
    """The worker takes the job, keeps it while Redis restarts, and publishes its model on request."""
    job_id = kiln.submit(ENDLESS)
    kiln.wait_until_training(job_id)
    kiln.redis.kill()
    kiln.redis.start()
    wait_for(lambda: kiln.request(job_id, "finish").status_code, lambda status: status == 202)
    job = kiln.wait_until_over(job_id)
    assert (job.status, job.attempt, job.crashes) == ("succeeded", 1, 0), job


def test_redis_by_unix_socket(kiln: Kiln, drill: Drill) -> None:
    """Invariant: with a `unix://` URL, API and worker train a job as they do over TCP, also over a restart of Redis.

    Faults injected: 1 (kill -9 of redis-server while the job trains).
    Broken by hand: shared/storage/celery_app.py: Celery gets the URL untranslated -> `No such transport: unix`
    """
    url = f"unix://{kiln.redis.socket}?db=0"
    kiln.replace_api(KILN_REDIS_URL=url)
    kiln.replace_worker(KILN_REDIS_URL=url)

    assert_a_job_survives_a_restart_of_redis(kiln)
    drill.record("Redis by unix socket", 1)


@pytest.fixture
def tls_url(kiln: Kiln, tmp_path: Path) -> Iterator[str]:
    """`rediss://` URL of the drill's Redis, whose certificate is signed by the CA in `ca.crt`; with a password."""
    certificates, port = make_certificates(tmp_path), free_port()
    for option, value in {
        "tls-cert-file": certificates.certificate, "tls-key-file": certificates.key,
        "tls-ca-cert-file": certificates.ca, "tls-auth-clients": "no", "tls-port": port,
    }.items():  # fmt: skip
        try:
            kiln.redis.execute("CONFIG", "SET", option, str(value))
        except redis.exceptions.ResponseError as error:
            pytest.skip(f"this redis-server has no TLS ({error}); Debian's package redis-server has")
    kiln.redis.execute("ACL", "SETUSER", "kiln", "on", ">tell-nobody", "~*", "&*", "+@all")
    yield f"rediss://kiln:tell-nobody@localhost:{port}/0"
    kiln.redis.execute("CONFIG", "SET", "tls-port", "0")
    kiln.redis.execute("ACL", "DELUSER", "kiln")


def test_redis_by_tls_with_a_private_ca(kiln: Kiln, drill: Drill, tls_url: str, tmp_path: Path) -> None:
    """Invariant: a worker that does not trust the server's CA takes no job; one that does takes it and trains it.
    No log shows the password.

    Faults injected: 1 (a worker that trusts another CA).
    Broken by hand: shared/redis_url.py: Celery's `ssl_cert_reqs` is `none` -> the worker takes the message
    """
    # Given an API that trusts the CA, and a worker that trusts another one
    other = tmp_path / "other"
    other.mkdir()
    kiln.replace_api(KILN_REDIS_URL=tls_url, KILN_REDIS_CA=str(tmp_path / "ca.crt"))
    stranger = kiln.replace_worker(KILN_REDIS_URL=tls_url, KILN_REDIS_CA=str(make_certificates(other).ca))

    # When a job is submitted
    job_id = kiln.submit(ENDLESS)
    wait_for(stranger.log, lambda text: "certificate verify failed" in text)

    # Then its message waits for a worker that trusts the server
    assert kiln.job(job_id).status == "queued"
    assert kiln.redis.execute("LLEN", "kiln.training") == 1
    worker = kiln.replace_worker(KILN_REDIS_URL=tls_url, KILN_REDIS_CA=str(tmp_path / "ca.crt"))
    assert kiln.wait_for_status(job_id, "running").attempt == 1
    for part in (kiln.api, stranger, worker):
        assert "tell-nobody" not in part.log()
    drill.record("Redis by TLS with a private CA", 1)


def test_an_evicting_redis(kiln: Kiln, drill: Drill) -> None:
    """Invariant: while Redis may evict keys, no job is accepted, and API and worker say why; the job that was
    accepted before continues, and the next one is accepted once the policy is corrected.

    Faults injected: 1 (`maxmemory-policy allkeys-lru`, set while a job trains).
    Broken by hand: shared/storage/redis.py: the policy is not compared -> the job is accepted
    """
    accepted = kiln.submit(ENDLESS)
    kiln.wait_until_training(accepted)
    kiln.redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        refused = kiln.api.http.post("/jobs", json=BODY)
        assert refused.status_code == 503, refused.text
        assert "maxmemory-policy is allkeys-lru" in refused.json()["detail"]
        for part in (kiln.start_api(), kiln.start_worker()):
            wait_for(part.log, lambda text: "maxmemory-policy is allkeys-lru" in text)
        assert [job.id for job in kiln.store.list(limit=50).jobs if not job.is_over] == [accepted]
        assert kiln.job(accepted).status == "running"
    finally:
        kiln.redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    kiln.submit(ENDLESS)
    drill.record("evicting Redis", 1)
