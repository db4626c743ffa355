"""HTML's own elements, for NiceGUI: they bring keyboard, focus and names for screen readers, and take any style."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement
from nicegui.events import GenericEventArguments

Handler = Callable[[], Awaitable[None] | None]
OnText = Callable[[str], Awaitable[None] | None]

E = TypeVar("E", bound=Element)

VALUE = "(event) => emit(event.target.value)"


def box(classes: str = "", tag: str = "div", **attributes: Any) -> Element:
    made: Element = _with(Element(tag), classes, attributes)
    return made


def text(content: str, tag: str = "p", classes: str = "", **attributes: Any) -> TextElement:
    return _with(TextElement(tag=tag, text=content), classes, attributes)


def heading(content: str, level: int = 2, classes: str = "") -> TextElement:
    return text(content, f"h{level}", classes)


def link(content: str, href: str, classes: str = "", **attributes: Any) -> TextElement:
    return text(content, "a", classes, href=href, **attributes)


def picture(url: str, description: str, classes: str = "pixels", **attributes: Any) -> Element:
    return _with(Element("img"), classes, {"src": url, "alt": description, **attributes})


def button(label: str, on_click: Handler, classes: str = "", **attributes: Any) -> TextElement:
    made = text(label, "button", f"button {classes}", type="button", **attributes)
    made.on("click", lambda _: on_click(), args=[])
    return made


class Field:
    """A labelled input. `value` is what stands in it; `complain` puts a sentence below it."""

    def __init__(self, label: str, control: Element, *, help_text: str = "", unit: str = "") -> None:
        self.control = control
        with _with(Element("div"), "field", {}) as self.box:
            self.label = text(label, "label", **{"for": control.html_id})
            if unit:
                with self.label:
                    text(unit, "span", "unit")
            control.move(self.box)
            described = []
            if help_text:
                described.append(text(help_text, "p", "help").html_id)
            self._complaint = text("", "p", "complaint", role="alert")
            described.append(self._complaint.html_id)
        # What an element says of itself must name elements that are there.
        control.props["aria-describedby"] = " ".join(described)

    @property
    def value(self) -> str:
        return str(self.control.props.get("value", ""))

    def set_value(self, value: str) -> None:
        self.control.props["value"] = value

    def complain(self, sentence: str) -> None:
        """No sentence: nothing is wrong."""
        self._complaint.text = sentence
        self.control.props["aria-invalid"] = "true" if sentence else "false"
        self.box.classes(add="is-wrong") if sentence else self.box.classes(remove="is-wrong")


def number(
    label: str, value: object, on_change: OnText | None = None, *, help_text: str = "", unit: str = "",
    low: float | None = None, high: float | None = None, step: object = None, placeholder: str = "",
) -> Field:  # fmt: skip
    limits = {"min": low, "max": high, "step": step, "placeholder": placeholder, "inputmode": "decimal"}
    control = _input("number", "" if value is None else str(value), on_change, limits)
    return Field(label, control, help_text=help_text, unit=unit)


def line(
    label: str, value: str, on_change: OnText | None = None, *,
    help_text: str = "", unit: str = "", placeholder: str = "",
) -> Field:  # fmt: skip
    control = _input("text", value, on_change, {"placeholder": placeholder, "autocomplete": "off"})
    return Field(label, control, help_text=help_text, unit=unit)


def slider(
    label: str, value: float, on_change: OnText, *, low: float, high: float, step: float, help_text: str = ""
) -> Field:
    control = _input("range", str(value), on_change, {"min": low, "max": high, "step": step})
    return Field(label, control, help_text=help_text)


def select(
    label: str, options: Mapping[str, str] | Iterable[str], value: str, on_change: OnText | None = None, *,
    help_text: str = "", unit: str = "",
) -> Field:  # fmt: skip
    """Options are value -> what stands in the list, or just values."""
    control = _listen(Element("select"), "change", value, on_change)
    fill_select(control, options, value)
    return Field(label, control, help_text=help_text, unit=unit)


def fill_select(control: Element, options: Mapping[str, str] | Iterable[str], value: str) -> None:
    named = options if isinstance(options, Mapping) else {option: option for option in options}
    control.clear()
    with control:
        for key, shown in named.items():
            text(shown, "option", value=key, selected=key == value)
    control.props["value"] = value


def switch(label: str, is_on: bool, on_change: Callable[[bool], Awaitable[None] | None]) -> Element:
    """A checkbox with its label behind it."""
    with Element("label").classes("switch") as whole:
        control = _with(Element("input"), "", {"type": "checkbox", "checked": is_on})
        control.on("change", lambda event: on_change(bool(event.args)), js_handler="(e) => emit(e.target.checked)")
        text(label, "span")
    return whole


def choice(
    label: str, options: Sequence[str], value: str, on_change: OnText, classes: str = "chips"
) -> dict[str, Element]:
    """Radio buttons that look like chips; arrow keys move between them. -> the inputs, by option."""
    controls = {}
    with box(classes, "fieldset"):
        text(label, "legend")
        for option in options:
            with Element("label").classes("chip"):
                group = {"type": "radio", "name": label, "value": option, "checked": option == value}
                controls[option] = _with(Element("input"), "", group)
                controls[option].on("change", _text_handler(on_change), js_handler=VALUE)
                text(option, "span")
    return controls


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], classes: str = "") -> Element:
    """Cells are shown as text; the first column heads its row."""
    with (
        box("scrolls", tabindex="0", role="region", **{"aria-label": caption}),
        box(f"table {classes}", "table") as made,
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
    return made


def curves(options: dict[str, Any], label: str, classes: str = "chart") -> ui.echart:
    """A chart; for who cannot see it, a picture with a name."""
    drawn = ui.echart(options, renderer="svg").classes(classes)
    drawn.props.update({"role": "img", "aria-label": label})
    return drawn


def confirm(question: str, consequence: str, verb: str, on_yes: Handler, *, is_dangerous: bool = False) -> Element:
    """A dialog that asks before something happens. -> the dialog; `open_dialog` shows it."""
    with dialog(question) as made:
        text(consequence)
        with box("row end"):
            button("Not now", lambda: close_dialog(made), "quiet")

            async def yes() -> None:
                close_dialog(made)
                done = on_yes()
                if done is not None:
                    await done

            button(verb, yes, "danger" if is_dangerous else "primary")
    return made


def dialog(title: str, classes: str = "") -> Element:
    """Closed at first. The browser holds the focus inside while it is open, and Escape closes it."""
    made = box(f"dialog {classes}", "dialog", **{"aria-label": title})
    # A click on the backdrop has the dialog itself as its target.
    made.on("click", js_handler="(event) => event.target === event.currentTarget && event.currentTarget.close()")
    with made:
        heading(title, 2)
    return made


def open_dialog(made: Element) -> None:
    ui.run_javascript(f"getHtmlElement({made.id}).showModal()")


def close_dialog(made: Element) -> None:
    ui.run_javascript(f"getHtmlElement({made.id}).close()")


def code(label: str, content: str) -> tuple[Element, TextElement]:
    """A line to copy. -> the whole, and the text, which may be changed."""
    with box("code") as whole:
        with box("row between"):
            text(label, "span", "eyebrow")
            copy = text("Copy", "button", "button small", type="button", **{"aria-label": f"Copy the {label} line"})
            copy.on("click", js_handler=COPY)
        shown = text(content, "pre", tabindex="0", **{"aria-label": label})
    return whole, shown


# navigator.clipboard exists on https and localhost only; elsewhere the old way still works.
COPY = """(event) => {
    const button = event.currentTarget, text = button.closest('.code').querySelector('pre').textContent;
    const done = () => { button.textContent = 'Copied'; setTimeout(() => { button.textContent = 'Copy'; }, 1500); };
    if (navigator.clipboard) { navigator.clipboard.writeText(text).then(done); return; }
    const area = document.createElement('textarea');
    area.value = text; document.body.append(area); area.select();
    document.execCommand('copy'); area.remove(); done();
}"""


def _input(kind: str, value: str, on_change: OnText | None, attributes: Mapping[str, Any]) -> Element:
    given = {name: attribute for name, attribute in attributes.items() if attribute not in (None, "")}
    control = _with(Element("input"), "", {"type": kind, **given})
    return _listen(control, "input", value, on_change)


def _listen(control: Element, event: str, value: str, on_change: OnText | None) -> Element:
    control.props["value"] = value

    async def changed(arguments: GenericEventArguments) -> None:
        with control.props.suspend_updates():  # the browser has it already
            control.props["value"] = arguments.args
        if on_change is not None:
            await _text_handler(on_change)(arguments)

    return control.on(event, changed, js_handler=VALUE, throttle=0.1 if event == "input" else 0, leading_events=True)


def _text_handler(on_change: OnText) -> Callable[[GenericEventArguments], Awaitable[None]]:
    async def handle(arguments: GenericEventArguments) -> None:
        done = on_change(str(arguments.args))
        if done is not None:
            await done

    return handle


def _with(element: E, classes: str, attributes: Mapping[str, Any]) -> E:
    attributes = dict(attributes)
    if style := attributes.pop("style", ""):
        element.style(style)
    if classes:
        element.classes(classes)
    element.props.update({name: value for name, value in attributes.items() if value not in (None, False)})
    return element
