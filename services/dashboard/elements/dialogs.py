"""Dialogs: the browser's own `<dialog>`, and a confirmation before an action."""

from __future__ import annotations

from nicegui import ui
from nicegui.element import Element

from services.dashboard.elements.html import OnClick, box, button, heading, text


def dialog(title: str, classes: str = "") -> Element:
    """A dialog, closed at first. While it is open the browser keeps the focus inside, and Escape closes it."""
    element = box(f"dialog {classes}", "dialog", **{"aria-label": title})
    # A click on the backdrop has the dialog itself as its target.
    element.on("click", js_handler="(event) => event.target === event.currentTarget && event.currentTarget.close()")
    with element:
        heading(title, 2)
    return element


def confirmation(
    question: str, consequence: str, verb: str, on_confirm: OnClick, *, is_destructive: bool = False
) -> Element:
    """A dialog with the question, what will happen, and the buttons `Back` and `verb`. Open it with `open_dialog`."""
    with dialog(question) as element:
        text(consequence)
        with box("row end"):
            button("Back", lambda: close_dialog(element), "quiet")

            async def confirm() -> None:
                close_dialog(element)
                done = on_confirm()
                if done is not None:
                    await done

            button(verb, confirm, "danger" if is_destructive else "primary")
    return element


def open_dialog(element: Element) -> None:
    ui.run_javascript(f"getHtmlElement({element.id}).showModal()")


def close_dialog(element: Element) -> None:
    ui.run_javascript(f"getHtmlElement({element.id}).close()")
