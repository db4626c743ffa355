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
    pytest.mark.timeout(60),  # a child that lives on would keep its end of the pipe open for good
]

# Starts a child with the code it is given, which inherits its pipes, and sees it to its end.
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], str(os.getpid())])
"""

DIES_AT_ONCE = """
import sys
from shared.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""

SAYS_GOODBYE = """
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


@pytest.mark.parametrize(("code", "last_words"), [(DIES_AT_ONCE, b""), (SAYS_GOODBYE, b"goodbye\n")])
def test_a_child_ends_when_its_parent_is_killed(code: str, last_words: bytes) -> None:
    command = [sys.executable, "-c", PARENT, code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        # Given a child that runs
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"

        # When its parent is killed
        parent.kill()

        # Then it ends: of the pipe they both wrote to nobody holds an end any more
        assert parent.stdout.read() == last_words


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
    assert int(niceness) == min(19, os.nice(0) + 7)  # relative to that of the tests
    assert group.split()[-1] == "7"
