"""`python -m services.doctor`: what it finds out about Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.processes import ROOT


def finding_about_redis(data: Path, **environment: str) -> dict[str, object]:
    command = [sys.executable, "-m", "services.doctor"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"KILN_DATA": str(data)} | environment, check=True, capture_output=True
    )
    (finding,) = [row for row in json.loads(done.stdout) if row["what"] in ("Redis", "settings")]
    return dict(finding)


def test_doctor_names_an_evicting_redis_and_the_way_out(redis_url: str, tmp_path: Path) -> None:
    assert finding_about_redis(tmp_path, KILN_REDIS_URL=redis_url)["is_well"]

    with redis.Redis.from_url(redis_url) as administrator:
        administrator.config_set("maxmemory-policy", "allkeys-random")
        try:
            finding = finding_about_redis(tmp_path, KILN_REDIS_URL=redis_url)
        finally:
            administrator.config_set("maxmemory-policy", "noeviction")

    assert not finding["is_well"]
    assert "maxmemory-policy is allkeys-random" in str(finding["found"])
    assert "CONFIG SET maxmemory-policy noeviction" in str(finding["found"])


@pytest.mark.parametrize("url", ["redis://:tell-nobody@127.0.0.1:1/0", "unix://:tell-nobody@/run/no-such.sock"])
def test_doctor_names_a_redis_that_does_not_respond_without_its_password(url: str, tmp_path: Path) -> None:
    finding = finding_about_redis(tmp_path, KILN_REDIS_URL=url)

    assert not finding["is_well"]
    assert "no response at " in str(finding["found"])
    assert "tell-nobody" not in json.dumps(finding)


def test_doctor_names_a_url_that_cannot_be_used(tmp_path: Path) -> None:
    finding = finding_about_redis(tmp_path, KILN_REDIS_URL="http://127.0.0.1:6379")

    assert (finding["what"], finding["is_well"]) == ("settings", False)
    assert "KILN_REDIS_URL: must be redis://" in str(finding["found"])
