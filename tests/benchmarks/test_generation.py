"""The benchmark of generate jobs runs from end to end on a few images of the starter model."""

from __future__ import annotations

import re

import pytest

from benchmarks import generation
from tests.conftest import ROOT


def test_it_prints_both_rates_and_the_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KILN_STARTER", str(ROOT / "models" / "starter"))
    monkeypatch.setattr("sys.argv", ["", "--images", "60", "--rounds", "1"])

    generation.main()

    printed = capsys.readouterr().out
    assert re.search(r"batcher: [\d,]+ images/s", printed)
    assert re.search(r"generate job: [\d,]+ images/s, \d\.\d\d of the batcher's rate", printed)
    assert re.search(r"peak memory: [\d,]+ MiB in the first quarter, [\d,]+ MiB over the whole job", printed)
