"""Parses values from the command line: `FIELD=VALUE` overrides and the ranges of a sweep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kiln.cli.output import CommandFailed


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`lr=1e-4` -> {"lr": 1e-4}. A value that is not JSON is a string. Raises CommandFailed."""
    overrides: dict[str, Any] = {}
    for pair in pairs:
        field, separator, text = pair.partition("=")
        if not separator or not field:
            raise CommandFailed(f"--override {pair}: expected FIELD=VALUE, for example lr=1e-4")
        try:
            overrides[field] = json.loads(text)
        except ValueError:
            overrides[field] = text
    return overrides


def parse_space(pairs: Iterable[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """`lr=1e-5..1e-2,log`, `batch_size=16..64,step=16`, `loss=hinge,bce` -> the `space` of POST /sweeps.

    A range between two integers is an integer range, unless the field is a float in the preset's `config`.
    Raises CommandFailed.
    """
    space: dict[str, Any] = {}
    for pair in pairs:
        field, separator, text = pair.partition("=")
        if not separator or not field or not text:
            raise CommandFailed(f"--space {pair}: expected FIELD=LOW..HIGH[,log][,step=N] or FIELD=VALUE,VALUE")
        if ".." in text:
            space[field] = _parse_range(pair, text, takes_fractions=isinstance(config.get(field), float))
        else:
            space[field] = {"type": "categorical", "choices": _parse_choices(text)}
    return space


def _parse_range(pair: str, text: str, *, takes_fractions: bool) -> dict[str, Any]:
    bounds, *options = text.split(",")
    try:
        low, high = (json.loads(bound) for bound in bounds.split(".."))
        steps = [json.loads(option.removeprefix("step=")) for option in options if option != "log"]
    except ValueError:
        raise CommandFailed(f"--space {pair}: expected numbers, as in lr=1e-5..1e-2,log or n=16..64,step=16") from None
    is_int = isinstance(low, int) and isinstance(high, int) and not takes_fractions
    parameter = {"type": "int" if is_int else "float", "low": low, "high": high}
    return parameter | ({"log": True} if "log" in options else {}) | ({"step": steps[-1]} if steps else {})


def _parse_choices(text: str) -> list[Any]:
    """`1,2`, `null,0.1`, `[8,8],[16,8]`; choices that are not JSON are strings."""
    try:
        values: list[Any] = json.loads(f"[{text}]")
    except ValueError:
        return text.split(",")
    return values
