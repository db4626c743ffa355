"""A person in front of the dashboard: goes to pages, reads, clicks, and notes what the browser complains of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from playwright.sync_api import Locator, Page, Response, expect

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SHOTS = ROOT / "build" / "screenshots"
PATIENCE_MS = 30_000  # for what a page does by itself; for trainers, a test waits at the API

expect.set_options(timeout=PATIENCE_MS)

# How many points ECharts draws of the first curve of the first chart.
POINTS = """() => {
    const chart = document.querySelector('.nicegui-echart');
    return chart ? getElement(chart)?.chart?.getOption()?.series?.[0]?.data?.length ?? 0 : 0;
}"""


class Visitor:
    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self._hosts: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._hosts.add(urlsplit(request.url).netloc))
        page.on("response", self._check)

    def go(self, path: str) -> Page:
        """Returns when the page listens: what is typed into one that does not yet is lost."""
        self.page.goto(f"{self.url}{path}")
        self.page.wait_for_function("() => window.did_handshake")
        return self.page

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def sees(self, words: str) -> None:
        expect(self.page.get_by_text(words).first).to_be_visible()

    def says_yes(self, verb: str) -> None:
        """Confirms in the dialog that is open."""
        self.page.locator("dialog[open]").get_by_role("button", name=verb, exact=True).click()

    def points(self) -> int:
        return int(self.page.evaluate(POINTS))

    def sees_more_points_than(self, count: int) -> int:
        self.page.wait_for_function(f"() => ({POINTS})() > {count}")
        return self.points()

    def serious_violations(self, axe: str) -> list[str]:
        """What axe-core finds, as far as it is serious or worse: rule and elements."""
        self.page.evaluate(axe)
        found: Any = self.page.evaluate("async () => (await axe.run()).violations")
        return [f"{rule['id']}: {json.dumps([node['html'][:160] for node in rule['nodes'][:3]])}"
                for rule in found if rule["impact"] in ("serious", "critical")]  # fmt: skip

    @property
    def foreign_hosts(self) -> set[str]:
        return self._hosts - {urlsplit(self.url).netloc, ""}

    def shoot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    @staticmethod
    def is_live(url: str) -> bool:
        try:
            return httpx2.get(f"{url}/healthz").status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    def _note(self, kind: str, text: str) -> None:
        # A page that is left while its socket still connects is no trouble.
        if kind in ("error", "warning") and "closed before the connection is established" not in text:
            self.complaints.append(f"{kind}: {text}")

    def _check(self, answer: Response) -> None:
        if answer.status >= 400:
            self.complaints.append(f"{answer.status} {answer.url}")
