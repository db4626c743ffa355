"""Makes a child process end with its parent, and gives it a low CPU priority."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel send this process a signal when its parent ends. Does nothing outside Linux.

    Call it in the child. If the parent has already ended, the call ends this process.
    """
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(1)


def lower_priority(niceness: int) -> None:
    """Raises the niceness of this process and of its children. Niceness cannot be lowered again.

    Linux may divide the CPU between sessions first; niceness then counts only within a session (sched(7), "The
    autogroup feature"). So this function also sets the niceness of the session. Call it in a session of its own.
    """
    os.nice(niceness)
    with suppress(OSError):  # a kernel without autogroups, or a sandbox that hides them
        Path("/proc/self/autogroup").write_text(str(niceness))
