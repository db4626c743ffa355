"""A background thread that calls a function at a fixed interval while the API runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from shared.errors import StoreUnavailable


class PeriodicTask:
    """Calls `run` every `interval_s` seconds from `start()` to `stop()`. An exception is logged; the task goes on."""

    def __init__(self, name: str, run: Callable[[], None], interval_s: float) -> None:
        self._run, self._interval_s = run, interval_s
        self._log = logging.getLogger(f"kiln.{name}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the current call of `run` has ended."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._run()
            except StoreUnavailable as error:
                self._log.warning("%s", error)
            except Exception:
                self._log.exception("a round failed; the next one starts in %g s", self._interval_s)
            self._stop.wait(self._interval_s)
