"""Buttons that pause, resume, finish, cancel or delete a job, each with a confirmation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui.element import Element

from kiln import JobData
from services.dashboard.elements.dialogs import confirmation, open_dialog
from services.dashboard.elements.html import button
from services.dashboard.page import Page
from services.dashboard.text import ACTIONS, ACTIONS_BY_STATUS, DELETE, Action, job_title

OnDone = Callable[[JobData], Awaitable[None] | None]


OnDeleted = Callable[[], Awaitable[None] | None]


def show_actions(
    page: Page, job: JobData, parent: Element, *, on_done: OnDone, on_deleted: OnDeleted, classes: str = ""
) -> None:
    """Fills `parent` with a button for each action that the job's status allows."""
    parent.clear()
    for name in ACTIONS_BY_STATUS.get(job.status, ()):
        if name == "finish" and job.attempt == 0:
            continue  # it has not trained yet, so there is no model to keep
        _draw_button(page, job, parent, ACTIONS[name], on_confirm=_request_action(page, job, name, on_done),
                     classes=classes)  # fmt: skip
    if job.is_over:
        _draw_button(page, job, parent, DELETE, on_confirm=_request_deletion(page, job, on_deleted),
                     classes=classes)  # fmt: skip


def _draw_button(
    page: Page,
    job: JobData,
    parent: Element,
    action: Action,
    *,
    on_confirm: Callable[[], Awaitable[None]],
    classes: str,
) -> None:
    with page.main:
        consequence = f"{job_title(job)}: {action.consequence}"
        dialog = confirmation(
            action.question, consequence, action.confirm_label, on_confirm, is_destructive=action.is_destructive
        )
    with parent:
        opener = button(action.label, _opens(dialog), f"{classes} {'quiet' if action.is_destructive else ''}")
        opener.props["aria-label"] = f"{action.label}: {job_title(job)}"


def _opens(dialog: Element) -> Callable[[], None]:
    return lambda: open_dialog(dialog)


def _request_action(page: Page, job: JobData, name: str, on_done: OnDone) -> Callable[[], Awaitable[None]]:
    jobs = page.kiln.jobs
    act = {"pause": jobs.pause, "resume": jobs.resume, "finish": jobs.finish, "cancel": jobs.cancel}[name]

    async def request() -> None:
        updated = await page.request(act(job.id))
        if updated is None:
            return
        still_runs = updated.status == "running" and ACTIONS[name].while_running
        page.toast(f"{job_title(job)}: {still_runs or f'{updated.status}.'}")
        done = on_done(updated)
        if done is not None:
            await done

    return request


def _request_deletion(page: Page, job: JobData, on_deleted: OnDeleted) -> Callable[[], Awaitable[None]]:
    async def request() -> None:
        if not await page.succeeded(page.kiln.jobs.delete(job.id)):
            return
        page.toast(f"{job_title(job)}: deleted.")
        done = on_deleted()
        if done is not None:
            await done

    return request
