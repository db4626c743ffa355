"""Reads the fields of a training config from the API's OpenAPI document: type, help text, unit, group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The first field of each group, in the order of the schema; the fields after it belong to the same group.
GROUPS = {
    "architecture": "Networks", "loss": "Objective", "batch_size": "Optimization", "flip": "Data",
    "tick_nimg": "Logging and evaluation",
}  # fmt: skip
# A numeric field's name ends in its unit.
UNITS = {"nimg": "images", "s": "seconds", "degrees": "degrees", "minutes": "minutes", "images": "images"}


@dataclass(frozen=True)
class ConfigField:
    """One field of a config, from its JSON schema."""

    name: str
    json_type: str
    is_optional: bool
    options: tuple[str, ...]
    help: str
    group: str

    @property
    def unit(self) -> str:
        _, _, last = self.name.rpartition("_")
        return UNITS.get(last, "") if self.json_type in ("integer", "number") and "_" in self.name else ""

    def parse(self, text: str) -> Any:
        """The text as a JSON value. Text that does not parse is returned as it is; the API's error explains it."""
        if text == "" and self.is_optional:
            return None
        if self.json_type == "boolean":
            return text == "yes"
        if self.json_type == "string":
            return text
        try:
            return json.loads(f"[{text.strip('[] ')}]" if self.json_type == "array" else text)
        except ValueError:
            return text


def read_config_fields(openapi: Mapping[str, Any], config: Mapping[str, Any]) -> list[ConfigField]:
    """The fields of a config. The API has several config schemas; the one that shares most fields is used."""
    overrides = openapi["components"]["schemas"]["JobRequest"]["properties"]["overrides"]
    schemas = [schema.get("properties", {}) for schema in overrides.get("anyOf", [overrides])]
    properties = max(schemas, key=lambda names: len(names.keys() & config.keys()))
    group, fields = "Other", []
    for name, schema in properties.items():
        group = GROUPS.get(name, group)
        types = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
        main = types[0] if types else schema
        options = tuple(str(option) for option in main.get("enum", ()))
        fields.append(
            ConfigField(
                name, main.get("type", "string"), len(types) < len(schema.get("anyOf", [schema])), options,
                schema.get("description", ""), group,
            )
        )  # fmt: skip
    return fields
