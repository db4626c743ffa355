"""A thread that goes its rounds for as long as the API runs: the reaper's, the sweeper's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from shared.errors import StoreUnavailable


class PeriodicTask:
    """Calls `go` every `every_s` seconds, from start() to stop(). No failure ends it: the next round comes."""

    def __init__(self, name: str, go: Callable[[], None], every_s: float) -> None:
        self._go, self._every_s = go, every_s
        self._log = logging.getLogger(f"kiln.{name}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._go()
            except StoreUnavailable as error:
                self._log.warning("%s", error)
            except Exception:
                self._log.exception("this round failed; the next one comes")
            self._stop.wait(self._every_s)
