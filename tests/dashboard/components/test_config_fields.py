"""The fields of the job form, read from the API's OpenAPI document."""

from __future__ import annotations

import pytest

from services.api.app import create_app
from services.dashboard.components.config_fields import GROUPS, ConfigField, read_config_fields
from shared.configs.presets import PRESETS
from shared.settings import Settings


@pytest.mark.parametrize("preset", PRESETS)
def test_the_form_has_a_field_for_every_value_of_a_preset(preset: str, settings: Settings) -> None:
    openapi = create_app(settings).openapi()
    config = PRESETS[preset].config.model_dump(mode="json")

    fields = {field.name: field for field in read_config_fields(openapi, config)}

    assert set(fields) == set(config)
    assert all(field.help for field in fields.values())
    assert {field.group for field in fields.values()} <= {"Other", *GROUPS.values()}


@pytest.mark.parametrize(
    ("json_type", "is_optional", "entered", "value"),
    [("integer", False, "64", 64), ("number", False, "1e-4", 1e-4), ("boolean", False, "yes", True),
     ("array", False, "64, 32,16", [64, 32, 16]), ("array", False, "[64]", [64]), ("string", False, "hinge", "hinge"),
     ("number", True, "", None), ("integer", False, "many", "many"), ("integer", False, "", "")],
)  # fmt: skip
def test_entered_text_becomes_a_json_value(json_type: str, is_optional: bool, entered: str, value: object) -> None:
    assert ConfigField("x", json_type, is_optional, (), "", "").parse(entered) == value


def test_a_field_has_the_unit_that_its_name_ends_in() -> None:
    names = ("total_nimg", "checkpoint_every_s", "seed")
    units = {name: ConfigField(name, "integer", False, (), "", "").unit for name in names}

    assert units == {"total_nimg": "images", "checkpoint_every_s": "seconds", "seed": ""}
