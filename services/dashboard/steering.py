"""Buttons that steer a job: pause, resume, finish, cancel; each asks before it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui.element import Element

from kiln import _requests as wire
from kiln._requests import JobData
from services.dashboard import sentences
from services.dashboard.elements import button, confirm, open_dialog
from services.dashboard.site import Page

Done = Callable[[JobData], Awaitable[None] | None]


def show_steering(page: Page, job: JobData, place: Element, on_done: Done, classes: str = "") -> None:
    """Fills the place with what can be done to the job as it is now."""
    place.clear()
    for what in sentences.CAN.get(job.status, ()):
        if what == "finish" and job.attempt == 0:
            continue  # nothing was trained, so there is nothing to keep
        verb, question, consequence, loses = sentences.STEER[what]
        with page.main:
            named = f"{consequence} The job is {sentences.of_job(job)}."
            dialog = confirm(question, named, verb, _act(page, job, what, on_done), is_dangerous=loses)
        with place:
            opener = button(verb, _opens(dialog), f"{classes} {'quiet' if loses else ''}")
            opener.props["aria-label"] = f"{verb}: {sentences.of_job(job)}"


def _opens(dialog: Element) -> Callable[[], None]:
    return lambda: open_dialog(dialog)


def _act(page: Page, job: JobData, what: str, on_done: Done) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        after = await page.ask(page.kiln.send(wire.act(job.id, what)))
        if after is None:
            return
        page.say(f"{sentences.of_job(job)}: {_told(what, after)}")
        done = on_done(after)
        if done is not None:
            await done

    return act


def _told(what: str, after: JobData) -> str:
    if after.status == "running":
        return {"pause": "it pauses at its next step.", "finish": "it finishes at its next step."}.get(
            what, "it is told to stop."
        )
    return f"it is {after.status} now."
