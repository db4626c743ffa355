"""The parts that all pages share: frame, navigation, error and status messages, and background updates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nicegui import background_tasks, ui
from nicegui.element import Element

from kiln import ApiError, Event, NotFound, Unavailable
from services.dashboard.connection import REQUEST_ERRORS, Connection
from services.dashboard.elements.html import box, button, heading, link, text
from services.dashboard.text import error_message

T = TypeVar("T")

PAGES = {
    "/": "Playground", "/jobs": "Jobs", "/compare": "Compare", "/models": "Models", "/datasets": "Data sets",
    "/sweeps": "Sweeps",
}  # fmt: skip
# page -> the API route without which its link is hidden
REQUIRED_ROUTES = {"/sweeps": "/sweeps", "/datasets": "/datasets"}
BUILD_TIMEOUT_S = 60.0  # for building a page, so that a slow API does not end in an error page
RETRY_S = 1.0
TOAST_S = 6.0

# Switches between the system's theme, dark and light; the script in app.py's HEAD applies it before the first paint.
TOGGLE_THEME = """(event) => {
    const order = ['auto', 'dark', 'light'], now = localStorage.getItem('kiln-theme') || 'auto';
    const next = order[(order.indexOf(now) + 1) % 3];
    localStorage.setItem('kiln-theme', next);
    document.documentElement.dataset.theme = next;
    event.currentTarget.querySelector('.unseen').textContent = 'Theme: ' + next;
    event.currentTarget.title = 'Theme: ' + next;
}"""


def page_at(path: str) -> ui.page:
    """Decorates the function that builds the page at `path`."""
    return ui.page(path, response_timeout=BUILD_TIMEOUT_S)


async def open_page(connection: Connection, title: str, path: str) -> Page:
    """Draws the frame of a page: header, navigation, heading."""
    hidden = {page for page, route in REQUIRED_ROUTES.items() if page != path and not await connection.has_route(route)}
    return Page(connection, title, path, [page for page in PAGES if page not in hidden])


class Page:
    """One page in one browser tab. `main` holds its content."""

    def __init__(self, connection: Connection, title: str, path: str, links: list[str]) -> None:
        self.connection, self.kiln = connection, connection.kiln
        self.client = ui.context.client
        self._toasts_shown = 0
        ui.page_title(f"{title} · Kiln")
        with box("frame"):
            _draw_header(path, links)
            self._banner = text("", "p", "banner", role="status")
            self.main = box("main", "main", id="main", tabindex="-1")
            self._toast = text("", "p", "toast", role="status")
        with self.main:
            self.title = heading(title, 1, "page-title")

    # --- Requests; the banner shows their errors --------------------------------------------------------------

    async def request(self, call: Awaitable[T]) -> T | None:
        """The response, or None if the request failed."""
        try:
            response = await call
        except REQUEST_ERRORS as error:
            self.show_error(error)
            return None
        self._banner.text = ""
        return response

    async def succeeded(self, call: Awaitable[Any]) -> bool:
        """Whether the request succeeded."""
        try:
            await call
        except REQUEST_ERRORS as error:
            self.show_error(error)
            return False
        self._banner.text = ""
        return True

    async def retry_until_ready(self, send: Callable[..., Awaitable[T]], *arguments: object) -> T | None:
        """Repeats the request while the API is starting, overloaded or not responding; None if it is refused."""
        while True:
            try:
                response = await send(*arguments)
            except REQUEST_ERRORS as error:
                self.show_error(error)
                if isinstance(error, ApiError) and not isinstance(error, Unavailable):
                    return None
            else:
                self._banner.text = ""
                return response
            await asyncio.sleep(RETRY_S)

    # --- Content -----------------------------------------------------------------------------------------------------

    async def build(self, draw: Callable[[], Awaitable[None]]) -> None:
        """Draws the content now. If the API fails, shows the error and draws the content once the API responds."""
        try:
            with self.main:
                await draw()
        except REQUEST_ERRORS as error:
            self.show_error(error)
            self.run_in_background(lambda: self._build_later(draw))

    async def _build_later(self, draw: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                await draw()
                self._banner.text = ""
                return
            except REQUEST_ERRORS as error:
                self.show_error(error)

    def empty_state(self, message: str, link_text: str = "", href: str = "") -> Element:
        """Replaces an empty list by a message and a link to the next step."""
        with box("empty") as element:
            text(message)
            if href:
                link(link_text, href, "button primary")
        return element

    def show_error(self, error: Exception) -> None:
        self._banner.text = error_message(error, self.connection.url)

    def toast(self, message: str) -> None:
        """Shows a short message, which disappears after TOAST_S seconds."""
        self._toasts_shown += 1
        number = self._toasts_shown
        self._toast.text = message

        async def hide() -> None:
            await asyncio.sleep(TOAST_S)
            if self._toasts_shown == number:
                self._toast.text = ""

        self.run_in_background(hide)

    # --- Background updates ------------------------------------------------------------------------------------------

    def run_in_background(self, work: Callable[[], Awaitable[object]]) -> None:
        """Runs `work` until it returns or the tab is closed."""

        async def run() -> None:
            with self.main:
                await work()

        task = background_tasks.create(run(), name=f"page of {self.client.id}")
        self.client.on_delete(task.cancel)

    def poll(self, refresh: Callable[[], Awaitable[object]], every_s: float = 2.0) -> None:
        """Calls `refresh` repeatedly, also after errors."""

        async def repeat() -> None:
            while True:
                try:
                    await refresh()
                    self._banner.text = ""
                except REQUEST_ERRORS as error:
                    self.show_error(error)
                await asyncio.sleep(every_s)

        self.run_in_background(repeat)

    def follow_job(self, job_id: str, on_update: Callable[[Any], Awaitable[None]]) -> None:
        """Calls `on_update` with each event of the job and with the job after each change. Survives API restarts."""

        async def follow() -> None:
            last_event_id = ""
            while True:
                try:
                    async for update in self.kiln.jobs.follow(job_id, last_event_id):
                        if isinstance(update, Event):
                            last_event_id = update.id
                        self._banner.text = ""
                        await on_update(update)
                    return
                except REQUEST_ERRORS as error:
                    self.show_error(error)
                    if isinstance(error, NotFound):
                        return
                await asyncio.sleep(RETRY_S)

        self.run_in_background(follow)


def _draw_header(path: str, links: list[str]) -> None:
    link("Skip to content", "#main", "skip")
    with box("header", "header"):
        with link("", "/", "brand", **{"aria-label": "Kiln home"}):
            box("brand-mark", "span", **{"aria-hidden": "true"})
            text("Kiln", "span")
        with box("nav", "nav", **{"aria-label": "Pages"}):
            for page in links:
                current = {"aria-current": "page"} if page == path else {}
                link(PAGES[page], page, "nav-link", **current)
        toggle = button("", lambda: None, "quiet theme", title="Theme: auto")
        with toggle:
            box("theme-mark", "span", **{"aria-hidden": "true"})
            text("Theme: auto", "span", "unseen")
        toggle.on("click", js_handler=TOGGLE_THEME)
