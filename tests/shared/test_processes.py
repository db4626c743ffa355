"""`die_with_parent` ends a child with its parent, and `lower_priority` raises its niceness."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's"),
    pytest.mark.timeout(60),  # a child that does not end keeps the pipe open
]

# Runs the code as a child process, which inherits the pipes, and waits for its end.
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid())])
"""

KILLED_WITH_PARENT = """
import sys
from shared.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""

HANDLES_SIGTERM = """
import signal, sys
from shared.processes import die_with_parent

def leave(*_):
    print("goodbye", flush=True)
    sys.exit()

signal.signal(signal.SIGTERM, leave)
die_with_parent(int(sys.argv[1]), signal.SIGTERM)
print("ready", flush=True)
sys.stdin.read()
"""

HAS_ANOTHER_PARENT = """
import os
from shared.processes import die_with_parent
die_with_parent(os.getpid())
print("ready", flush=True)
"""


@pytest.mark.parametrize(("code", "last_output"), [(KILLED_WITH_PARENT, b""), (HANDLES_SIGTERM, b"goodbye\n")])
def test_a_child_ends_when_its_parent_is_killed(code: str, last_output: bytes) -> None:
    command = [sys.executable, "-c", PARENT, code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        # Given a child that runs
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"

        # When its parent is killed
        parent.kill()

        # Then the child ends too, and closes the pipe that both wrote to
        assert parent.stdout.read() == last_output


def test_a_child_whose_parent_has_already_ended_exits() -> None:
    child = subprocess.run([sys.executable, "-c", HAS_ANOTHER_PARENT], cwd=ROOT, capture_output=True, check=False)

    assert (child.returncode, child.stdout, child.stderr) == (1, b"", b"")


def test_a_process_of_low_priority_yields_to_other_sessions_too() -> None:
    code = """
import os, pathlib
from shared.processes import lower_priority
lower_priority(7)
group = pathlib.Path("/proc/self/autogroup")
print(os.nice(0), group.read_text() if group.exists() else "- nice 7")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, check=True, capture_output=True, text=True
    )

    niceness, group = done.stdout.split(maxsplit=1)
    assert int(niceness) == min(19, os.nice(0) + 7)  # relative to the niceness of the tests
    assert group.split()[-1] == "7"
