"""Checks and parses overrides: the config fields that a request or a command line changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import FieldProblem, InvalidInput, did_you_mean

Config = TypeVar("Config", bound=BaseModel)


def validate_overrides(
    config: type[Config], overrides: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> Config:
    """`config` with the values of `base`, replaced by those of `overrides` where both have one.

    Raises InvalidInput with one problem per wrong value; fields are named `overrides.<field>`.
    """
    try:
        return config.model_validate({**(base or {}), **overrides})
    except ValidationError as error:
        details: list[dict[str, Any]] = [dict(each) for each in error.errors(include_url=False)]
        # pydantic reports a tuple whose items it refused a second time, as too short. The items' own errors suffice.
        parents = {each["loc"][:-1] for each in details if len(each["loc"]) > 1}
        raise InvalidInput([_problem(config, each) for each in details if each["loc"] not in parents]) from None


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["lr=1e-4"]` -> `{"lr": 1e-4}`. A value that is not JSON is a string. Raises InvalidInput."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        field, separator, text = pair.partition("=")
        if not separator:
            raise InvalidInput.of("override", pair, "expected FIELD=VALUE")
        try:
            overrides[field] = json.loads(text)
        except ValueError:
            overrides[field] = text
    return overrides


def _problem(config: type[BaseModel], details: dict[str, Any]) -> FieldProblem:
    path = ".".join(str(part) for part in details["loc"])
    message, value = details["msg"], details["input"]
    if details["type"] == "config":  # a rule over several fields, which names the one to change
        path, value = details["ctx"]["field"], details["ctx"]["value"]
    if details["type"] == "extra_forbidden":
        message = f"unknown override{did_you_mean(path, config.model_fields)}"
    return FieldProblem(f"overrides.{path}", value, message)
