"""Limits how often a long operation sends its progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


def at_most_every(interval_s: float, call: Callable[P, None]) -> Callable[P, None]:
    """A function that forwards to `call`, first after `interval_s` and then at most once per `interval_s`."""
    last_s = time.monotonic()

    def forward(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= interval_s:
            last_s = time.monotonic()
            call(*args, **kwargs)

    return forward
