"""`kiln doctor`: checks this machine and the API, and says how to correct each problem."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2
import typer
from rich.console import RenderableType
from rich.text import Text

import kiln
from kiln.cli.machine import environment_of, find_checkout
from kiln.cli.output import AsJson, new_table, show
from kiln.client import Kiln
from kiln.errors import ApiError
from kiln.settings import read_client_settings

CHECKOUT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """The result of one check; the fields are the keys of `kiln doctor --json`."""

    what: str  # the name of the check
    is_well: bool
    found: str  # the result, for people
    fix: str = ""  # what to do if the check failed


def doctor(as_json: AsJson = False) -> None:
    """Check this machine and the API.

    Says how to correct each problem. The exit code is 1 if a check fails.
    """
    findings = list(run_checks())
    show(as_json, [asdict(finding) for finding in findings], lambda: _table(findings))
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)


def run_checks() -> Iterator[Finding]:
    """Raises InvalidSetting."""
    yield Finding("client", True, f"kiln {kiln.__version__}, Python {platform.python_version()}, {sys.platform}")
    url = read_client_settings().url
    with Kiln(max_wait_s=0) as api:
        is_up, result = _try(lambda: f"{len(api.presets.list())} presets")
        yield from _servers(find_checkout(), with_redis=not is_up)
        yield Finding("API", is_up, f"{url}: {result}", "start it with `kiln up`, or set KILN_URL and KILN_API_KEY")
        if is_up:
            yield from _api(api)


def _servers(checkout: Path | None, *, with_redis: bool) -> Iterator[Finding]:
    """Checks what the servers need on this machine. `with_redis` is false if Redis is checked through the API."""
    if checkout is None:
        yield Finding("servers", True, "no checkout of Kiln here, so this machine is a client only")
        return
    command = [sys.executable, "-m", "services.doctor"]
    done = subprocess.run(
        command, env=environment_of(checkout), capture_output=True, text=True, check=False, timeout=CHECKOUT_TIMEOUT_S
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        yield Finding("servers", False, f"{checkout}: {reason}", f"`make up` in {checkout} installs what they need")
        return
    findings = [Finding(**row) for row in json.loads(done.stdout)]
    yield from (finding for finding in findings if with_redis or finding.what != "Redis")


def _api(api: Kiln) -> Iterator[Finding]:
    has_redis, result = _try(lambda: "has jobs" if list(api.jobs.list(limit=1)) else "has no jobs yet")
    yield Finding("Redis", has_redis, f"through the API: {result}", "start Redis; the API reconnects by itself")
    has_models, result = _try(lambda: ", ".join(model.id for model in api.models.list()) or "none")
    yield Finding("models", has_models and result != "none", result, "train one: `kiln train --watch`")
    try:
        ready = api.get("/readyz").json()
    except (httpx2.TransportError, ApiError) as error:
        yield Finding("ready", False, _reason(error), "wait until the first model is loaded, or look at the API's log")
        return
    yield Finding("ready", True, f"serves {ready.get('model_id')} with {ready.get('provider')}")
    for warning in ready.get("warnings") or ():
        yield Finding("warning", False, str(warning), "the API's log says more")


def _try(check: Callable[[], str]) -> tuple[bool, str]:
    """(whether the request succeeded, its result or the reason of the failure)."""
    try:
        return True, check()
    except (httpx2.TransportError, ApiError) as error:
        return False, _reason(error)


def _reason(error: Exception) -> str:
    return (error.detail or error.title) if isinstance(error, ApiError) else str(error)


def _table(findings: Sequence[Finding]) -> RenderableType:
    table = new_table("", "check", "found", "what to do")
    for finding in findings:
        mark = Text("ok", style="green") if finding.is_well else Text("!!", style="red")
        table.add_row(mark, finding.what, finding.found, "" if finding.is_well else finding.fix)
    return table
