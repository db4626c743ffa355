"""The form of a new job: a field for each value of the preset's config, validated by the API while the user types."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from kiln import InvalidInput
from services.dashboard.components.config_fields import ConfigField, read_config_fields
from services.dashboard.connection import REQUEST_ERRORS
from services.dashboard.elements.fields import Field, select, text_field
from services.dashboard.elements.html import box, button, heading, table, text
from services.dashboard.page import Page
from services.dashboard.text import format_value

SHOWN_FIRST = ("total_nimg", "lr", "batch_size", "max_minutes")  # the other fields are in closed groups
DRY_RUN_DELAY_S = 0.5  # after the last key press

DATASET = "dataset"


class JobForm:
    def __init__(
        self,
        page: Page,
        presets: Sequence[Mapping[str, Any]],
        datasets: Sequence[str],
        openapi: Mapping[str, Any],
    ) -> None:
        self.page = page
        self._presets = {preset["name"]: preset for preset in presets}
        self._datasets = list(datasets)
        self._openapi = openapi
        self._preset = "tiny" if "tiny" in self._presets else next(iter(self._presets))
        self._overrides: dict[str, Any] = {}
        self._fields: dict[str, Field] = {}
        self._edits = 0

    def draw(self, query: Mapping[str, str]) -> None:
        """`query` may name a preset, a data set and overrides, so that a link can fill in the form."""
        if query.get("preset") in self._presets:
            self._preset = query["preset"]
        self._read_config_fields()
        heading("New job")
        with box("form-grid"):
            self._preset_field = select("Preset", list(self._presets), self._preset, self._select_preset)
            chosen = query.get(DATASET, "cifar10")
            # A folder that only the workers have is not listed.
            names = self._datasets if chosen in self._datasets else [chosen, *self._datasets]
            self._dataset = select("Data set", names, chosen, self._edited)
            self._name = text_field("Name", query.get("name", ""), placeholder="optional")
        self._summary = text("", "p", "help")
        self._groups = box()
        with box("row"):
            button("Start training", self._submit, "primary")
            self._status = text("", "p", "help", role="status")
        self._preview = box()
        for name, value in query.items():
            if name in self._config_fields:
                self._overrides[name] = self._config_fields[name].parse(value)
        self._draw_fields()

    def _read_config_fields(self) -> None:
        fields = read_config_fields(self._openapi, self._presets[self._preset]["config"])
        self._config_fields = {field.name: field for field in fields}

    # --- Fields ------------------------------------------------------------------------------------------------------

    def _draw_fields(self) -> None:
        preset = self._presets[self._preset]
        counts = ", ".join(f"{count:,} in the {network}" for network, count in preset["parameters"].items())
        self._summary.text = f"{preset['summary']} Parameters: {counts}." if counts else preset["summary"]
        self._groups.clear()
        self._fields = {}
        with self._groups:
            with box("form-grid group"):
                for name in SHOWN_FIRST:
                    if name in self._config_fields:
                        self._draw_field(self._config_fields[name], preset)
            groups: dict[str, list[ConfigField]] = {}
            for field in self._config_fields.values():
                if field.name not in SHOWN_FIRST:
                    groups.setdefault(field.group, []).append(field)
            for group, fields in groups.items():
                is_open = any(field.name in self._overrides for field in fields)
                with box("group", "details", open=is_open):
                    text(group, "summary")
                    with box("form-grid"):
                        for field in fields:
                            self._draw_field(field, preset)
        self._edited("")

    def _draw_field(self, field: ConfigField, preset: Mapping[str, Any]) -> None:
        default = preset["config"].get(field.name)
        value = self._overrides.get(field.name, default)
        source = preset["sources"].get(field.name)
        help_text = field.help + (f" Preset: {format_value(default)}, from {source}." if source else "")

        def changed(entered: str) -> None:
            self._set_override(field, entered)

        if field.json_type == "boolean":
            control = select(field.name, ["yes", "no"], "yes" if value else "no", changed, help_text=help_text)
        elif field.options:
            control = select(field.name, field.options, str(value), changed, help_text=help_text)
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            placeholder = "none" if field.is_optional else ""
            control = text_field(
                field.name, shown, changed, help_text=help_text, unit=field.unit, placeholder=placeholder
            )
        self._fields[field.name] = control

    def _set_override(self, field: ConfigField, entered: str) -> None:
        value = field.parse(entered)
        if value == self._presets[self._preset]["config"].get(field.name):
            self._overrides.pop(field.name, None)
        else:
            self._overrides[field.name] = value
        self._edited(entered)

    def _select_preset(self, preset: str) -> None:
        self._preset, self._overrides = preset, {}
        self._read_config_fields()
        self._draw_fields()

    # --- Validation by the API ---------------------------------------------------------------------------------------

    def _edited(self, _: str) -> None:
        self._edits += 1
        edit = self._edits

        async def validate_after_pause() -> None:
            await asyncio.sleep(DRY_RUN_DELAY_S)
            if edit == self._edits:
                await self._dry_run()

        self.page.run_in_background(validate_after_pause)

    async def _dry_run(self) -> None:
        """Shows the resolved config, or each problem below its field."""
        try:
            resolved = await self.page.kiln.jobs.dry_run(self._preset, self._overrides, dataset=self._dataset.value)
        except InvalidInput as error:
            self._show_problems(error)
        except REQUEST_ERRORS as error:
            self.page.show_error(error)
        else:
            self._show_problems(None)
            self._show_resolved(resolved["config"])

    def _show_problems(self, error: InvalidInput | None) -> None:
        problems = {str(problem["field"]): str(problem["message"]) for problem in (error.problems if error else ())}
        controls = {f"overrides.{name}": field for name, field in self._fields.items()}
        controls |= {"preset": self._preset_field, DATASET: self._dataset, "name": self._name}
        for path, control in controls.items():
            # A problem of `overrides.g_channels.1` is shown at `g_channels`.
            messages = [message for name, message in problems.items() if name == path or name.startswith(f"{path}.")]
            control.show_error("; ".join(messages))
        other = [f"{name}: {message}" for name, message in problems.items()
                 if not any(name == path or name.startswith(f"{path}.") for path in controls)]  # fmt: skip
        count = len(problems)
        summary = "1 value is not valid." if count == 1 else f"{count} values are not valid."
        self._status.text = " ".join([summary, *other]) if problems else ""
        if problems:
            self._preview.clear()

    def _show_resolved(self, config: Mapping[str, Any]) -> None:
        preset = self._presets[self._preset]["config"]
        changed = [name for name in config if config[name] != preset.get(name)]
        self._status.text = (
            f"Changed from the preset: {', '.join(changed)}." if changed else "No changes to the preset."
        )
        self._preview.clear()
        with self._preview, box("", "details"):
            text("Resolved config", "summary")
            rows = [(name, format_value(config[name]), format_value(preset.get(name)) if name in changed else "")
                    for name in [*changed, *(name for name in config if name not in changed)]]  # fmt: skip
            table("Resolved config", ("Field", "Value", "Preset"), rows)

    async def _submit(self) -> None:
        dataset, name = self._dataset.value, self._name.value or None
        try:
            job = await self.page.kiln.jobs.create(self._preset, self._overrides, dataset=dataset, name=name)
        except InvalidInput as error:
            self._show_problems(error)
        except REQUEST_ERRORS as error:
            self.page.show_error(error)
        else:
            ui.navigate.to(f"/jobs/{job.id}")
