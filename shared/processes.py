"""Child processes that end with their parent, whatever kills it, and that let others go first."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when its parent is gone; Linux only, elsewhere it does nothing.

    To be called in the child. If the parent died before the call, this process ends here.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def lower_priority(niceness: int) -> None:
    """Makes this process, and what it starts, yield the CPU to others. A niceness can only be raised.

    Linux may share the CPU among sessions before it looks at any niceness, which then counts within a session only
    (sched(7), "The autogroup feature"); so this process's session is told as well. Call it in a session of its own.
    """
    os.nice(niceness)
    with suppress(OSError):  # a kernel without autogroups, or a sandbox that hides them
        Path("/proc/self/autogroup").write_text(str(niceness))
