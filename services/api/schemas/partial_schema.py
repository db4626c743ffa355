"""JSON schema of `overrides`: any subset of a config's fields."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def partial_schema(*models: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of an object that holds any of the fields of one of these models."""
    schemas = [_optional_fields(model.model_json_schema()) for model in models]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _optional_fields(schema: dict[str, Any]) -> dict[str, Any]:
    properties = _inlined(schema["properties"], schema.get("$defs", {}))
    return {"properties": properties, "additionalProperties": False}


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """The schema with each `$ref` replaced by its definition, because the result has no `$defs`."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {name: _inlined(value, definitions) for name, value in node.items()}
    return [_inlined(item, definitions) for item in node] if isinstance(node, list) else node
