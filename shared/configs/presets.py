"""What can be trained: the table of presets, and `resolve(preset, overrides)`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from shared.configs.preset_tables import Preset, keras_dcgan, kiln, per_class, wgan_gp
from shared.configs.train import MIN_EVAL_IMAGES, TrainConfig
from shared.errors import FieldProblem, InvalidInput

__all__ = ["MIN_EVAL_IMAGES", "PRESETS", "Preset", "TrainConfig", "find_preset", "parse_overrides", "resolve"]

PRESETS: dict[str, Preset] = {row.name: row for row in (*wgan_gp.ROWS, *keras_dcgan.ROWS, *per_class.ROWS, *kiln.ROWS)}


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises InvalidInput, which lists the names there are."""
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidInput.of(
            "preset", name, f"unknown preset; there are {', '.join(PRESETS)}{_nearest(name, PRESETS)}"
        )
    return preset


def resolve(preset: str, overrides: Mapping[str, Any]) -> TrainConfig:
    """The preset's config with some values replaced, all of them checked.

    Raises InvalidInput with one problem per wrong value; fields are named `overrides.<field>`.
    """
    base = find_preset(preset).config
    try:
        return TrainConfig.model_validate(base.model_dump() | dict(overrides))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A tuple whose items were refused is reported again, as too short; the items say it.
        inside = {details["loc"][:-1] for details in found if len(details["loc"]) > 1}
        raise InvalidInput([_problem(dict(details)) for details in found if details["loc"] not in inside]) from None


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`lr=1e-4` -> {"lr": 1e-4}; what is no JSON is a string. Raises InvalidInput."""
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


def _problem(details: dict[str, Any]) -> FieldProblem:
    path = ".".join(str(part) for part in details["loc"])
    message, value = details["msg"], details["input"]
    if details["type"] == "config":  # a rule over several fields; it says itself which one to change
        path, value = details["ctx"]["field"], details["ctx"]["value"]
    if details["type"] == "extra_forbidden":
        message = f"unknown override{_nearest(path, TrainConfig.model_fields)}"
    return FieldProblem(f"overrides.{path}", value, message)


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
