"""Makes every drill record how many faults it injected and what was lost."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.drills.report import Drill


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Drill:
    """Call `drill.record(name, faults, lost="nothing", detail="")` at least once per test."""
    return Drill(request.node.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None, None, None]:
    """Fails a drill that records nothing."""
    drill = item.funcargs.get("drill")
    if not isinstance(drill, Drill):
        pytest.fail(f"{item.nodeid} is a drill and does not use the fixture `drill`")
    try:
        yield
        if not drill.has_recorded:
            pytest.fail(f"{item.nodeid} recorded nothing")
    except pytest.skip.Exception:
        raise
    except BaseException as error:
        drill.close(failure=str(error) or type(error).__name__)
        raise
    drill.close()
