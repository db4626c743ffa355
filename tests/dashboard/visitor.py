"""A user in front of the dashboard: opens pages, clicks, and records what the browser logs as an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from playwright.sync_api import Locator, Page, Response, expect

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ROOT / "build" / "screenshots"
TIMEOUT_MS = 30_000  # for changes of a page; tests wait for trainers with the API

expect.set_options(timeout=TIMEOUT_MS)

# The number of points that ECharts draws of the first curve of the first chart.
COUNT_POINTS = """() => {
    const chart = document.querySelector('.nicegui-echart');
    return chart ? getElement(chart)?.chart?.getOption()?.series?.[0]?.data?.length ?? 0 : 0;
}"""


class Visitor:
    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.browser_errors: list[str] = []
        self._hosts: set[str] = set()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: self._record(message.type, message.text))
        page.on("pageerror", lambda error: self.browser_errors.append(str(error)))
        page.on("request", lambda request: self._hosts.add(urlsplit(request.url).netloc))
        page.on("response", self._record_error_status)

    def open(self, path: str) -> Page:
        """Returns once the page's socket is connected; input before that would be lost."""
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_function("() => window.did_handshake")
        return self.page

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def sees(self, words: str) -> None:
        expect(self.page.get_by_text(words).first).to_be_visible()

    def click_in_dialog(self, label: str) -> None:
        self.page.locator("dialog[open]").get_by_role("button", name=label, exact=True).click()

    def count_points(self) -> int:
        return int(self.page.evaluate(COUNT_POINTS))

    def sees_more_points_than(self, count: int) -> int:
        self.page.wait_for_function(f"() => ({COUNT_POINTS})() > {count}")
        return self.count_points()

    def serious_violations(self, axe: str) -> list[str]:
        """Accessibility problems that axe-core rates as serious or critical: rule and elements."""
        self.page.evaluate(axe)
        violations: Any = self.page.evaluate("async () => (await axe.run()).violations")
        return [f"{rule['id']}: {json.dumps([node['html'][:160] for node in rule['nodes'][:3]])}"
                for rule in violations if rule["impact"] in ("serious", "critical")]  # fmt: skip

    @property
    def foreign_hosts(self) -> set[str]:
        return self._hosts - {urlsplit(self.url).netloc, ""}

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    @staticmethod
    def is_live(url: str) -> bool:
        try:
            return httpx2.get(f"{url}/healthz").status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    def _record(self, kind: str, text: str) -> None:
        # The browser warns when a page is left while its socket connects; that is harmless.
        if kind in ("error", "warning") and "closed before the connection is established" not in text:
            self.browser_errors.append(f"{kind}: {text}")

    def _record_error_status(self, response: Response) -> None:
        if response.status >= 400:
            self.browser_errors.append(f"{response.status} {response.url}")
