"""Sends the progress of long operations, but not too often."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec

from shared.jobs.trainer_messages import SendEvent

LOADING_EVERY_S = 10.0  # between two events while images are read; KILN_STALL_S is far longer

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


def loading_progress(send_event: SendEvent) -> Callable[[int, int], None]:
    """For `load_dataset`: sends `loading: 1,200 of 7,200 files` about every ten seconds."""

    def send(count: int, total: int) -> None:
        send_event("loading", f"loading: {count:,} of {total:,} files", files=count, total=total)

    return at_most_every(LOADING_EVERY_S, send)
