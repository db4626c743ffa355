"""What all pages share: the connection to the API, the frame around each page, and how it stays up to date."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx2
from nicegui import background_tasks, ui
from nicegui.element import Element

from kiln import _requests as wire
from kiln._requests import ApiError
from kiln.async_client import AsyncKiln
from services.dashboard import sentences
from services.dashboard.elements import box, button, heading, link, text
from shared.settings import ClientSettings

T = TypeVar("T")

PAGES = {"/": "Playground", "/jobs": "Jobs", "/compare": "Compare", "/models": "Models", "/sweeps": "Sweeps"}
NEEDS = {"/sweeps": "/sweeps"}  # a page that is there only when the API has this path
KEPT_FILES = 200
BUILD_S = 60.0
DESCRIPTION_S = 30.0  # for so long the API's description of itself is believed
FAILURES = (httpx2.TransportError, ApiError)

# Cycles through dark, light and what the system says; app.py's head script applies it before anything is drawn.
TOGGLE = """(event) => {
    const order = ['auto', 'dark', 'light'], now = localStorage.getItem('kiln-theme') || 'auto';
    const next = order[(order.indexOf(now) + 1) % 3];
    localStorage.setItem('kiln-theme', next);
    document.documentElement.dataset.theme = next;
    event.currentTarget.querySelector('.unseen').textContent = 'Colours: ' + next;
    event.currentTarget.title = 'Colours: ' + next;
}"""


class Site:
    """The dashboard's one connection to the API, and what that API can do."""

    def __init__(self, settings: ClientSettings) -> None:
        self.url = settings.url.rstrip("/")
        key = settings.api_key.get_secret_value() if settings.api_key else None
        # Pages wait for nothing: what fails is said at once, and tried again by the page itself.
        self.kiln = AsyncKiln(self.url, key, timeout_s=30.0, max_wait_s=1.0)
        self._kept: OrderedDict[tuple[object, ...], httpx2.Response] = OrderedDict()
        self._description: dict[str, Any] = {}
        self._asked_at_s = -DESCRIPTION_S

    def page(self, path: str) -> ui.page:
        """Decorates a function that builds the page. An API that is slow is waited for, rather than given up."""
        return ui.page(path, response_timeout=BUILD_S)

    async def description(self) -> dict[str, Any]:
        """The API's OpenAPI document. Raises what the client raises."""
        if time.monotonic() - self._asked_at_s > DESCRIPTION_S:
            self._description = await self.kiln.send(wire.description())
            self._asked_at_s = time.monotonic()
        return self._description

    async def offers(self, path: str, method: str = "get") -> bool:
        """Whether the API has such a route. False while it does not answer."""
        try:
            return method in (await self.description())["paths"].get(path, {})
        except FAILURES:
            return False

    async def read(self, path: str, query: Mapping[str, str], accept: str = "image/png") -> httpx2.Response:
        """A file of the API. Images of one model and one seed never change, so the latest are kept."""
        key = (path, tuple(sorted(query.items())), accept)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        answer = await self.kiln.send(wire.file(f"/{path}", query, accept))
        if "seed" in query and "model" in query:
            self._kept[key] = answer
            if len(self._kept) > KEPT_FILES:
                self._kept.popitem(last=False)
        return answer

    async def open(self, title: str, path: str) -> Page:
        """Draws the frame of a page."""
        absent = {page for page, route in NEEDS.items() if page != path and not await self.offers(route)}
        return Page(self, title, path, [page for page in PAGES if page not in absent])

    async def close(self) -> None:
        await self.kiln.close()


class Page:
    """One page in one browser tab. `main` is where its content goes."""

    def __init__(self, site: Site, title: str, path: str, pages: list[str]) -> None:
        self.site, self.kiln = site, site.kiln
        self.client = ui.context.client
        self._said = 0
        ui.page_title(f"{title} · Kiln")
        with box("frame"):
            _header(path, pages)
            self._banner = text("", "p", "banner", role="status")
            self.main = box("main", "main", id="main", tabindex="-1")
            self._toast = text("", "p", "toast", role="status")
        with self.main:
            self.title = heading(title, 1, "page-title")

    async def load(self, build: Callable[[], Awaitable[None]]) -> None:
        """Builds the page now; where the API does not let it, says so and builds it as soon as it does."""
        try:
            with self.main:
                await build()
        except FAILURES as error:
            self.complain(error)
            self.start(lambda: self._load_later(build))

    async def _load_later(self, build: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                await build()
                self._banner.text = ""
                return
            except FAILURES as error:
                self.complain(error)

    async def ask(self, call: Awaitable[T]) -> T | None:
        """The answer, or None after the page has said what went wrong."""
        try:
            answer = await call
        except FAILURES as error:
            self.complain(error)
            return None
        self._banner.text = ""
        return answer

    async def does(self, call: Awaitable[Any]) -> bool:
        """Whether it was done; if not, the page has said why."""
        try:
            await call
        except FAILURES as error:
            self.complain(error)
            return False
        self._banner.text = ""
        return True

    async def insist(self, ask: Callable[..., Awaitable[T]], *arguments: object) -> T | None:
        """As `ask`, but what may pass, such as an API that is starting, is asked again until it has."""
        while True:
            try:
                answer = await ask(*arguments)
            except FAILURES as error:
                self.complain(error)
                if isinstance(error, ApiError) and not isinstance(error, wire.Unavailable):
                    return None
            else:
                self._banner.text = ""
                return answer
            await asyncio.sleep(1.0)

    def complain(self, error: Exception) -> None:
        self._banner.text = sentences.of_error(error, self.site.url)

    def say(self, sentence: str) -> None:
        """A short word that goes away by itself."""
        self._said += 1
        said = self._said
        self._toast.text = sentence

        async def forget() -> None:
            await asyncio.sleep(6)
            if self._said == said:
                self._toast.text = ""

        self.start(forget)

    def start(self, work: Callable[[], Awaitable[object]]) -> None:
        """Runs beside the page until it is done or the tab is closed."""

        async def run() -> None:
            with self.main:
                await work()

        task = background_tasks.create(run(), name=f"page {self.client.id}")
        self.client.on_delete(task.cancel)

    def keep_fresh(self, look: Callable[[], Awaitable[object]], every_s: float = 2.0) -> None:
        """Looks again and again. While the API is away the page says so, and goes on when it is back."""

        async def keep() -> None:
            while True:
                try:
                    await look()
                    self._banner.text = ""
                except FAILURES as error:
                    self.complain(error)
                await asyncio.sleep(every_s)

        self.start(keep)

    def follow(self, job_id: str, take: Callable[[Any], Awaitable[None]]) -> None:
        """`take` gets every event of the job, and the job whenever it changed, also across restarts of the API."""

        async def follow() -> None:
            last_id = ""
            while True:
                try:
                    async for news in self.kiln.jobs.follow(job_id, last_id):
                        last_id = getattr(news, "id", "") if not isinstance(news, wire.JobData) else last_id
                        self._banner.text = ""
                        await take(news)
                    return
                except FAILURES as error:
                    self.complain(error)
                    if isinstance(error, wire.NotFound):
                        return
                await asyncio.sleep(1.0)

        self.start(follow)

    def empty(self, sentence: str, to_do: str = "", href: str = "") -> Element:
        """What stands where there is nothing yet: a sentence, and the way on."""
        with box("empty") as made:
            text(sentence)
            if href:
                link(to_do, href, "button primary")
        return made


def _header(path: str, pages: list[str]) -> None:
    link("Skip to content", "#main", "skip")
    with box("header", "header"):
        with link("", "/", "brand", **{"aria-label": "Kiln, to the playground"}):
            box("brand-mark", "span", **{"aria-hidden": "true"})
            text("Kiln", "span")
        with box("nav", "nav", **{"aria-label": "Pages"}):
            for page in pages:
                here = {"aria-current": "page"} if page == path else {}
                link(PAGES[page], page, "nav-link", **here)
        toggle = button("", lambda: None, "quiet theme", title="Colours: auto")
        with toggle:
            box("theme-mark", "span", **{"aria-hidden": "true"})
            text("Colours: auto", "span", "unseen")
        toggle.on("click", js_handler=TOGGLE)
