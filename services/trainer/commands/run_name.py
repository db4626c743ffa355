"""Checks the name that a user gives a run on the command line."""

from __future__ import annotations

import re

from shared.errors import InvalidInput


def check_run_name(name: str) -> str:
    """Returns the name, which becomes part of keys and of a model's id. Raises InvalidInput."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise InvalidInput.of("run", name, "use 1 to 64 characters of a-z, 0-9, '.', '_' and '-'")
    return name
