"""Drill: the API behaves as its OpenAPI document says, for valid and for invalid requests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import publish
from tests.drills.report import Drill
from tests.drills.servers import running

KEY = "schemathesis-0123456789abcdef"
PHASES = "examples,coverage,fuzzing,stateful"


@pytest.mark.slow_drill
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_whole_openapi_document(seed: int, tmp_path: Path, drill: Drill) -> None:
    """Invariant: valid and invalid requests that schemathesis draws from /openapi.json, one by one and along links, get
    responses as in that document. All of schemathesis' checks pass, and no response is a 5xx.

    Takes about half a minute. Faults injected: the drawn requests, about 1100 for each seed.
    Broken by hand: `services/api/errors.py`: `headers=error.headers` for a 405 -> "ST205 Allow header mismatch". (The
    first run of this drill found that fault, a 500 for event ids of more than 64 bits, and a 503 for a model without a
    preview.)
    """
    with running(tmp_path, KILN_API_KEYS=f"drill:read+generate+train:{KEY}") as server:
        publish(server.registry, "first", more={"preview.png": b"a picture", "neighbours.png": b"one"})
        server.wait_until_ready()
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
            "run", f"{server.url}/openapi.json", "--checks", "all", "--phases", PHASES, "--max-examples", "15",
            "--seed", str(seed), "--header", f"Authorization: Bearer {KEY}", "--request-timeout", "60",
            "--continue-on-failure", "--generation-database", "none", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        log = server.log()
    assert done.returncode == 0, done.stdout[done.stdout.find("= FAILURES") :] + done.stderr
    (requests,) = re.findall(r"Test cases:\s+(\d+) generated", done.stdout)
    (operations,) = re.findall(r"Operations: +(\d+) selected / \1 total", done.stdout)
    assert int(operations) >= 35
    assert re.search(r"API Links: +[1-9]\d* covered", done.stdout)
    assert not re.search(r'HTTP/1.1" 5\d\d', log.partition('/openapi.json HTTP/1.1" 200')[2])
    assert "Traceback" not in log
    drill.record("schemathesis over the whole OpenAPI document", int(requests))
