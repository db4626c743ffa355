"""Restarts the training process without CUDA graphs, after one could not be recorded."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, NoReturn

from services.trainer.commands.signals import StopFlag
from services.trainer.training.errors import CaptureFailed
from shared.jobs.trainer_messages import SendMessage, event_sender
from shared.settings import Settings

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def warn_of_capture(error: CaptureFailed, send: SendMessage) -> None:
    event_sender(send)(
        "warning",
        f"the training step could not be recorded as a CUDA graph ({error}); the training process restarts without it, "
        "from its last checkpoint. KILN_FAST_PATHS=auto,-capture avoids the attempt",
    )


def restart_without_capture(
    settings: Settings,
    arguments: Sequence[str],
    stop: StopFlag,
    *,
    standard_input: str | None = None,
    standard_output: IO[str] | None = None,
) -> NoReturn:
    """Replaces this process by one that runs `python -m services.trainer <arguments>` with `-capture`.

    A failed capture can leave CUDA unusable until the program is loaded again. The process id stays, so that a
    supervisor sees one training process. `standard_input` is text that the new program reads.
    """
    # A stop signal from now on waits for the handlers of the new program; one that came before is sent again.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if (requested := stop()) is not None:
        os.kill(os.getpid(), signal.SIGTERM if requested == "leave" else signal.SIGUSR1)
    if standard_output is not None:
        standard_output.flush()
        os.dup2(standard_output.fileno(), 1)
    if standard_input is not None:
        with tempfile.TemporaryFile("w+") as file:
            file.write(standard_input)
            file.seek(0)
            os.dup2(file.fileno(), 0)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # open devices of the GPU among them, which keep its memory
    # The niceness of this process is inherited and would be added again.
    changes = {"KILN_FAST_PATHS": f"{settings.fast_paths},-capture", "KILN_TRAINER_NICE": "0"}
    os.execve(sys.executable, [sys.executable, "-m", "services.trainer", *arguments], os.environ | changes)
