"""Form controls: labelled inputs, selects, sliders, checkboxes and radio buttons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from nicegui.element import Element
from nicegui.events import GenericEventArguments

from services.dashboard.elements.html import box, styled, text

OnText = Callable[[str], Awaitable[None] | None]

SEND_VALUE = "(event) => emit(event.target.value)"


class Field:
    """A labelled control with its unit, help text and error message."""

    def __init__(self, label: str, control: Element, *, help_text: str = "", unit: str = "") -> None:
        self.control = control
        with box("field") as self._box:
            self.label = text(label, "label", **{"for": control.html_id})
            if unit:
                with self.label:
                    text(unit, "span", "unit")
            control.move(self._box)
            described_by = [text(help_text, "p", "help").html_id] if help_text else []
            self._error = text("", "p", "error", role="alert")
        control.props["aria-describedby"] = " ".join([*described_by, self._error.html_id])

    @property
    def value(self) -> str:
        return str(self.control.props.get("value", ""))

    def set_value(self, value: str) -> None:
        self.control.props["value"] = value

    def show_error(self, message: str) -> None:
        """Shows the message below the control; an empty one clears it."""
        self._error.text = message
        self.control.props["aria-invalid"] = "true" if message else "false"
        self._box.classes(add="is-invalid") if message else self._box.classes(remove="is-invalid")


def number_field(
    label: str, value: object, on_change: OnText | None = None, *, help_text: str = "",
    low: float | None = None, high: float | None = None, step: object = None,
) -> Field:  # fmt: skip
    attributes = {"min": low, "max": high, "step": step, "inputmode": "decimal"}
    control = _input("number", "" if value is None else str(value), on_change, attributes)
    return Field(label, control, help_text=help_text)


def text_field(
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
    help_text: str = "",
) -> Field:  # fmt: skip
    """`options` maps each value to its text in the list, or lists values that are their own texts."""
    control = _listen(Element("select"), "change", value, on_change)
    named = options if isinstance(options, Mapping) else {option: option for option in options}
    with control:
        for key, shown in named.items():
            text(shown, "option", value=key, selected=key == value)
    return Field(label, control, help_text=help_text)


def checkbox(label: str, is_checked: bool, on_change: Callable[[bool], Awaitable[None] | None]) -> Element:
    """A checkbox followed by its label."""
    with Element("label").classes("switch") as element:
        control = styled(Element("input"), "", {"type": "checkbox", "checked": is_checked})
        control.on("change", lambda event: on_change(bool(event.args)), js_handler="(e) => emit(e.target.checked)")
        text(label, "span")
    return element


def radio_chips(label: str, options: Sequence[str], value: str, on_change: OnText) -> None:
    """Radio buttons in the shape of chips. The arrow keys move between them."""
    with box("chips", "fieldset"):
        text(label, "legend")
        for option in options:
            with Element("label").classes("chip"):
                attributes = {"type": "radio", "name": label, "value": option, "checked": option == value}
                control = styled(Element("input"), "", attributes)
                control.on("change", _text_handler(on_change), js_handler=SEND_VALUE)
                text(option, "span")


def _input(kind: str, value: str, on_change: OnText | None, attributes: Mapping[str, Any]) -> Element:
    present = {name: attribute for name, attribute in attributes.items() if attribute not in (None, "")}
    control = styled(Element("input"), "", {"type": kind, **present})
    return _listen(control, "input", value, on_change)


def _listen(control: Element, event: str, value: str, on_change: OnText | None) -> Element:
    control.props["value"] = value

    async def changed(arguments: GenericEventArguments) -> None:
        with control.props.suspend_updates():  # the browser already shows this value
            control.props["value"] = arguments.args
        if on_change is not None:
            await _text_handler(on_change)(arguments)

    throttle_s = 0.1 if event == "input" else 0
    return control.on(event, changed, js_handler=SEND_VALUE, throttle=throttle_s, leading_events=True)


def _text_handler(on_change: OnText) -> Callable[[GenericEventArguments], Awaitable[None]]:
    async def handle(arguments: GenericEventArguments) -> None:
        done = on_change(str(arguments.args))
        if done is not None:
            await done

    return handle
