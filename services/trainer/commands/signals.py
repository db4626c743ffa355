"""Stop signals of a training process: SIGTERM leaves a checkpoint, SIGUSR1 exports the model so far."""

from __future__ import annotations

import signal
from types import FrameType

from shared.jobs.trainer_messages import StopSignal

_ACTIONS: dict[int, StopSignal] = {signal.SIGTERM: "leave", signal.SIGINT: "leave", signal.SIGUSR1: "finish"}


class StopFlag:
    """Remembers the stop signal that arrived; `leave` takes precedence over `finish`. Call it to read the signal."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._value: StopSignal | None = None
        for number in numbers:
            signal.signal(number, self._on_signal)
        # The supervisor starts this process with its signals blocked, so that none arrives before the handlers exist.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(numbers))

    def __call__(self) -> StopSignal | None:
        return self._value

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._value != "leave":
            self._value = _ACTIONS[number]
