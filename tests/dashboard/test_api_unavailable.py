"""The dashboard while the API does not respond, and after it has come back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect

from services.dev import free_port
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.dashboard.visitor import Visitor
from tests.processes import ROOT, SMALL_MACHINE, unobserved, wait_for


@contextmanager
def running(module: str, url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `python -m module`; ready once the address responds."""
    environment = unobserved() | SMALL_MACHINE | environment
    with subprocess.Popen(
        [sys.executable, "-m", module], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: (process.poll(), Visitor.is_live(url)), lambda seen: seen != (None, False))
            assert process.poll() is None
            yield process
        finally:
            process.kill()


def test_pages_report_an_unavailable_api_and_recover_when_it_is_back(browser: Browser, settings: Settings) -> None:
    api_port, port = free_port(), free_port()
    api_url, url = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{port}"
    api = {"KILN_DATA": str(settings.data), "KILN_REDIS_URL": settings.redis_url, "KILN_PORT": str(api_port)}
    publish(ModelRegistry(ArtifactStore(settings.artifact_url)), "first")
    unavailable = f"The API at {api_url} is not responding."

    # Given a dashboard without an API
    with (
        running("services.dashboard", url, KILN_URL=api_url, KILN_DASHBOARD_PORT=str(port)),
        browser.new_context() as context,
    ):
        visitor = Visitor(context.new_page(), url)
        page = visitor.open("/")
        banner = page.locator(".banner")
        expect(banner).to_contain_text(unavailable)

        # When the API starts, then the page draws its content
        with running("services.api", api_url, **api):
            expect(page.locator("button.tile").first).to_be_visible()
            expect(banner).to_have_text("")
            page = visitor.open("/jobs")
            visitor.sees("No jobs yet.")

        # When the API stops, then the open page shows the error until the API is back
        expect(banner).to_contain_text(unavailable)
        with running("services.api", api_url, **api):
            expect(banner).to_have_text("")
