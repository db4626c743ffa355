"""The dashboard while the API is away, and when it comes back."""

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
def started(module: str, url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A service in a process of its own, from its first answer at that address on."""
    given = unobserved() | SMALL_MACHINE | environment
    with subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=given, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: (process.poll(), Visitor.is_live(url)), lambda seen: seen != (None, False))
            assert process.poll() is None
            yield process
        finally:
            process.kill()


def test_pages_say_that_the_api_is_away_and_go_on_when_it_is_back(browser: Browser, settings: Settings) -> None:
    api_port, port = free_port(), free_port()
    api_url, url = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{port}"
    api = {"KILN_DATA": str(settings.data), "KILN_REDIS_URL": settings.redis_url, "KILN_PORT": str(api_port)}
    publish(ModelRegistry(ArtifactStore(settings.artifact_url)), "first")
    away = f"The API at {api_url} does not answer."

    # Given a dashboard without an API
    with (
        started("services.dashboard", url, KILN_URL=api_url, KILN_DASHBOARD_PORT=str(port)),
        browser.new_context() as context,
    ):
        visitor = Visitor(context.new_page(), url)
        page = visitor.go("/")
        banner = page.locator(".banner")
        expect(banner).to_contain_text(away)

        # When the API starts, the page fills itself
        with started("services.api", api_url, **api):
            expect(page.locator("button.tile").first).to_be_visible()
            expect(banner).to_have_text("")
            page = visitor.go("/jobs")
            visitor.sees("No jobs yet.")

        # When it goes away under an open page, the page says so; and no longer when it is back
        expect(banner).to_contain_text(away)
        with started("services.api", api_url, **api):
            expect(banner).to_have_text("")
