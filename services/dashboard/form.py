"""The form of a new job, made from the API's own description of a config: a field each, grouped, with unit and help."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from kiln import _requests as wire
from kiln._requests import InvalidInput
from services.dashboard import sentences
from services.dashboard.elements import Field, box, button, heading, line, select, table, text
from services.dashboard.site import FAILURES, Page

# The first field of each group, in the order of the schema; what follows it belongs to the group.
GROUPS = {
    "architecture": "Networks", "loss": "Objective", "batch_size": "Optimization", "flip": "Data",
    "tick_nimg": "Reporting",
}  # fmt: skip
# House rule: names carry their units.
UNITS = {"nimg": "images", "s": "seconds", "degrees": "degrees", "minutes": "minutes", "images": "images"}
FIRST = ("total_nimg", "lr", "batch_size", "max_minutes")  # what people change; the rest is one click away
DRY_RUN_S = 0.5  # after the last key; then the API is asked what it thinks

DATASET = "dataset"


@dataclass(frozen=True)
class Spec:
    """One field of a config, as the schema tells it."""

    name: str
    kind: str  # a JSON type
    is_optional: bool
    options: tuple[str, ...]
    help: str
    group: str

    @property
    def unit(self) -> str:
        _, _, last = self.name.rpartition("_")
        return UNITS.get(last, "") if self.kind in ("integer", "number") and "_" in self.name else ""

    def parse(self, written: str) -> Any:
        """What a user wrote, as JSON has it. What cannot be read goes to the API as it stands, which says why."""
        if written == "" and self.is_optional:
            return None
        if self.kind == "boolean":
            return written == "yes"
        if self.kind == "string":
            return written
        try:
            return json.loads(f"[{written.strip('[] ')}]" if self.kind == "array" else written)
        except ValueError:
            return written


def read_specs(description: Mapping[str, Any], config: Mapping[str, Any]) -> list[Spec]:
    """The fields of such a config, out of the API's OpenAPI document, which may know configs of several kinds."""
    overrides = description["components"]["schemas"]["JobRequest"]["properties"]["overrides"]
    kinds_of_config = [kind.get("properties", {}) for kind in overrides.get("anyOf", [overrides])]
    properties = max(kinds_of_config, key=lambda names: len(names.keys() & config.keys()))
    group, specs = "Other", []
    for name, schema in properties.items():
        group = GROUPS.get(name, group)
        kinds = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
        main = kinds[0] if kinds else schema
        options = tuple(str(option) for option in main.get("enum", ()))
        specs.append(
            Spec(
                name, main.get("type", "string"), len(kinds) < len(schema.get("anyOf", [schema])), options,
                schema.get("description", ""), group,
            )
        )  # fmt: skip
    return specs


class JobForm:
    def __init__(self, page: Page, presets: Sequence[Mapping[str, Any]], description: Mapping[str, Any]) -> None:
        self.page = page
        self._presets = {preset["name"]: preset for preset in presets}
        self._description = description
        self._preset = "tiny" if "tiny" in self._presets else next(iter(self._presets))
        self._overrides: dict[str, Any] = {}
        self._fields: dict[str, Field] = {}
        self._asked = 0

    def draw(self, query: Mapping[str, str]) -> None:
        """`query` may name a preset, a data set and overrides: a link that fills the form."""
        if query.get("preset") in self._presets:
            self._preset = query["preset"]
        self._read_specs()
        heading("New job")
        with box("form-grid"):
            options = {name: name for name in self._presets}
            self._preset_field = select("Preset", options, self._preset, self._choose)
            self._dataset = line(
                "Data set", query.get(DATASET, "cifar10"), self._changed, help_text="A folder below KILN_DATASETS."
            )
            self._name = line("Name", query.get("name", ""), help_text="Anything that helps you remember.")
        self._summary = text("", "p", "help")
        self._groups = box()
        with box("row"):
            button("Start training", self._start, "primary")
            self._verdict = text("", "p", "help", role="status")
        self._preview = box()
        for name, written in query.items():
            if name in self._specs:
                self._overrides[name] = self._specs[name].parse(written)
        self._draw_fields()

    def _read_specs(self) -> None:
        config = self._presets[self._preset]["config"]
        self._specs = {spec.name: spec for spec in read_specs(self._description, config)}

    # --- Fields ------------------------------------------------------------------------------------------------------

    def _draw_fields(self) -> None:
        preset = self._presets[self._preset]
        counts = ", ".join(f"{count:,} in the {network}" for network, count in preset["parameters"].items())
        self._summary.text = f"{preset['summary']} Parameters: {counts}." if counts else preset["summary"]
        self._groups.clear()
        self._fields = {}
        with self._groups:
            with box("form-grid group"):
                for name in FIRST:
                    if name in self._specs:
                        self._draw_field(self._specs[name], preset)
            groups: dict[str, list[Spec]] = {}
            for spec in self._specs.values():
                if spec.name not in FIRST:
                    groups.setdefault(spec.group, []).append(spec)
            for group, specs in groups.items():
                is_open = any(spec.name in self._overrides for spec in specs)
                with box("group", "details", open=is_open):
                    text(group, "summary")
                    with box("form-grid"):
                        for spec in specs:
                            self._draw_field(spec, preset)
        self._changed("")

    def _draw_field(self, spec: Spec, preset: Mapping[str, Any]) -> None:
        default = preset["config"].get(spec.name)
        now = self._overrides.get(spec.name, default)
        source = preset["sources"].get(spec.name)
        help_text = spec.help + (f" {default_text(default)} by {source}." if source else "")

        def changed(written: str) -> None:
            self._take(spec, written)

        if spec.kind == "boolean":
            made = select(spec.name, ["yes", "no"], "yes" if now else "no", changed, help_text=help_text)
        elif spec.options:
            made = select(spec.name, spec.options, str(now), changed, help_text=help_text)
        else:
            shown = ", ".join(map(str, now)) if isinstance(now, list) else "" if now is None else str(now)
            placeholder = "none" if spec.is_optional else ""
            made = line(spec.name, shown, changed, help_text=help_text, unit=spec.unit, placeholder=placeholder)
        self._fields[spec.name] = made

    def _take(self, spec: Spec, written: str) -> None:
        value = spec.parse(written)
        if value == self._presets[self._preset]["config"].get(spec.name):
            self._overrides.pop(spec.name, None)
        else:
            self._overrides[spec.name] = value
        self._changed(written)

    def _choose(self, preset: str) -> None:
        self._preset, self._overrides = preset, {}
        self._read_specs()
        self._draw_fields()

    # --- What the API thinks of it -----------------------------------------------------------------------------------

    def _changed(self, _: str) -> None:
        self._asked += 1
        asked = self._asked

        async def ask_later() -> None:
            await asyncio.sleep(DRY_RUN_S)
            if asked == self._asked:
                await self._dry_run()

        self.page.start(ask_later)

    async def _dry_run(self) -> bool:
        """Shows what would be trained, or what is wrong in its place. -> whether it could be trained."""
        call = wire.dry_run(self._preset, self._overrides, self._dataset.value)
        try:
            resolved = await self.page.kiln.send(call)
        except InvalidInput as error:
            self._show_problems(error)
            return False
        except FAILURES as error:
            self.page.complain(error)
            return False
        self._show_problems(None)
        self._show_resolved(resolved["config"])
        return True

    def _show_problems(self, error: InvalidInput | None) -> None:
        problems = {str(problem["field"]): str(problem["message"]) for problem in (error.problems if error else ())}
        places = {f"overrides.{name}": field for name, field in self._fields.items()}
        places |= {"preset": self._preset_field, DATASET: self._dataset, "name": self._name}
        for place, field in places.items():
            # `overrides.g_channels.1` is told at g_channels.
            told = [message for name, message in problems.items() if name == place or name.startswith(f"{place}.")]
            field.complain("; ".join(told))
        homeless = [f"{name}: {message}" for name, message in problems.items()
                    if not any(name == place or name.startswith(f"{place}.") for place in places)]  # fmt: skip
        count = len(problems)
        plural = "One value cannot be used." if count == 1 else f"{count} values cannot be used."
        self._verdict.text = " ".join([plural, *homeless]) if problems else ""
        if problems:
            self._preview.clear()

    def _show_resolved(self, config: Mapping[str, Any]) -> None:
        base = self._presets[self._preset]["config"]
        changed = [name for name in config if config[name] != base.get(name)]
        told = "As the preset has it." if not changed else f"Changes {len(changed)}: {', '.join(changed)}."
        self._verdict.text = told
        self._preview.clear()
        with self._preview, box("", "details"):
            text("What would be trained", "summary")
            rows = [(name, sentences.value(config[name]), sentences.value(base.get(name)) if name in changed else "")
                    for name in [*changed, *(name for name in config if name not in changed)]]  # fmt: skip
            table("The resolved config", ("Field", "Value", "Preset"), rows)

    async def _start(self) -> None:
        call = wire.create_job(self._preset, self._overrides, self._dataset.value, self._name.value or None, None)
        try:
            job = await self.page.kiln.send(call)
        except InvalidInput as error:
            self._show_problems(error)
            return
        except FAILURES as error:
            self.page.complain(error)
            return
        ui.navigate.to(f"/jobs/{job.id}")


def default_text(default: object) -> str:
    return sentences.value(default)
