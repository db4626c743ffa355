"""Counts and lists of files and classes, as English text."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import escape

LISTED = 3


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 file`, `2 files`, `12,000 copies`"""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """`a, b, c and 7 more`, with bytes that are not UTF-8 made printable."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(escape(name) for name in names[:most]) + more


def quoted(names: Sequence[str]) -> str:
    """`'a', 'b'`, with bytes that are not UTF-8 made printable."""
    return ", ".join(f"'{escape(name)}'" for name in names)
