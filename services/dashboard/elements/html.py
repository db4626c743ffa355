"""Plain HTML elements for NiceGUI. They support keyboard focus, accessible names, and any style."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

OnClick = Callable[[], Awaitable[None] | None]

E = TypeVar("E", bound=Element)


def box(classes: str = "", tag: str = "div", **attributes: Any) -> Element:
    element: Element = styled(Element(tag), classes, attributes)
    return element


def text(content: str, tag: str = "p", classes: str = "", **attributes: Any) -> TextElement:
    return styled(TextElement(tag=tag, text=content), classes, attributes)


def heading(content: str, level: int = 2, classes: str = "") -> TextElement:
    return text(content, f"h{level}", classes)


def link(content: str, href: str, classes: str = "", **attributes: Any) -> TextElement:
    return text(content, "a", classes, href=href, **attributes)


def image(url: str, alt: str, classes: str = "pixels", **attributes: Any) -> Element:
    return styled(Element("img"), classes, {"src": url, "alt": alt, **attributes})


def button(label: str, on_click: OnClick, classes: str = "", **attributes: Any) -> TextElement:
    element = text(label, "button", f"button {classes}", type="button", **attributes)
    element.on("click", lambda _: on_click(), args=[])
    return element


def facts(values: Mapping[str, object]) -> Element:
    """A description list: each name with its value."""
    with box("facts", "dl") as element:
        for name, value in values.items():
            text(name, "dt")
            text(str(value), "dd")
    return element


def figure(value: str, label: str, **attributes: Any) -> TextElement:
    """A large number with its label below. -> the element of the number, so that its text can change."""
    with box("figure", **attributes):
        number = text(value, "span", "number")
        text(label, "span", "eyebrow")
    return number


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], classes: str = "") -> Element:
    """Cells are shown as text. The first cell of a row is its header."""
    with (
        box("scrolls", tabindex="0", role="region", **{"aria-label": caption}),
        box(f"table {classes}", "table") as element,
    ):
        text(caption, "caption", "unseen")
        with box(tag="thead"), box(tag="tr"):
            for column in columns:
                text(column, "th", scope="col")
        with box(tag="tbody"):
            for first, *others in rows:
                with box(tag="tr"):
                    text(str(first), "th", scope="row")
                    for cell in others:
                        text(str(cell), "td")
    return element


def chart(options: dict[str, Any], label: str, classes: str = "chart") -> ui.echart:
    """An ECharts chart; a screen reader announces it as an image named `label`."""
    element = ui.echart(options, renderer="svg").classes(classes)
    element.props.update({"role": "img", "aria-label": label})
    return element


def copyable_code(label: str, content: str) -> TextElement:
    """A line of code with a copy button. -> the element of the code, so that its text can change."""
    with box("code"):
        with box("row between"):
            text(label, "span", "eyebrow")
            copy = text("Copy", "button", "button small", type="button", **{"aria-label": f"Copy the {label} line"})
            copy.on("click", js_handler=COPY)
        return text(content, "pre", tabindex="0", **{"aria-label": label})


# navigator.clipboard exists on https and on localhost only; execCommand works elsewhere.
COPY = """(event) => {
    const button = event.currentTarget, text = button.closest('.code').querySelector('pre').textContent;
    const done = () => { button.textContent = 'Copied'; setTimeout(() => { button.textContent = 'Copy'; }, 1500); };
    if (navigator.clipboard) { navigator.clipboard.writeText(text).then(done); return; }
    const area = document.createElement('textarea');
    area.value = text; document.body.append(area); area.select();
    document.execCommand('copy'); area.remove(); done();
}"""


def styled(element: E, classes: str, attributes: Mapping[str, Any]) -> E:
    """Adds CSS classes and HTML attributes; attributes that are None or False are left out."""
    attributes = dict(attributes)
    if style := attributes.pop("style", ""):
        element.style(style)
    if classes:
        element.classes(classes)
    element.props.update({name: value for name, value in attributes.items() if value not in (None, False)})
    return element
