"""Finds classes by the names and numbers that clients send."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from shared.errors import InvalidInput


def class_index(value: str | None, names: Sequence[str], owner: str, field: str = "class") -> int:
    """The position of a class, by its name or its number.

    Names are trimmed and compared in Unicode's normal form C. If the name of a class is a number, such as "7", every
    number is a name. Raises InvalidInput, which lists the names of `owner`.
    """
    normal_names = [_normal(name) for name in names]
    if value is not None:
        if value in names:
            return names.index(value)
        if _normal(value) in normal_names:
            return normal_names.index(_normal(value))
        if not any(name.isdecimal() for name in normal_names) and value in map(str, range(len(names))):
            return int(value)
    listed = ", ".join(f"'{name}'" for name in names)
    raise InvalidInput.of(field, value, f"{'unknown class' if value else 'name a class'}; {owner} has {listed}")


def split_classes(value: str | Sequence[str] | None, names: Sequence[str]) -> list[str | None]:
    """The requested classes: one, several as a list or separated by commas, or `all`.

    A class whose name contains commas, or is "all", can be requested by that name.
    """
    if value is None:
        return [None]
    if not isinstance(value, str) or _normal(value) in map(_normal, names):
        return [value] if isinstance(value, str) else [*value]
    return [*names] if value == "all" else [*value.split(",")]


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())
