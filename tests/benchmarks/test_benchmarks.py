"""Small versions of the benchmarks run from end to end, survive failing parts, and print their results."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import gpu
from benchmarks.serving import graphs
from benchmarks.tables import as_markdown
from benchmarks.training.racing import Contestant, median, race, ratios
from tests.conftest import ROOT

TASK: dict[str, Any] = {
    "preset": "tiny", "device": "cpu", "threads": 1, "implementation": "reference",
    "overrides": {"latent_dim": 8, "batch_size": 4, "g_channels": [8, 8, 8], "d_channels": [8, 8, 8]},
}  # fmt: skip


def test_a_contestant_that_fails_leaves_the_race_with_a_reason() -> None:
    # Given a contestant that can run, and one whose networks do not exist
    able, unable = Contestant("able", TASK), Contestant("unable", TASK | {"implementation": "peer", "path": "/nowhere"})
    # When they race
    race([able, unable], rounds=2, turn_s=0.05)
    # Then the first has a rate per round, and the second has none but a reason
    assert len(able.rates) == 2
    assert able.failure is None
    assert unable.rates == []
    assert "/nowhere" in (unable.failure or "")
    assert ratios(able, unable) == []
    assert able.process.poll() is not None


def test_a_ratio_is_taken_within_a_round() -> None:
    fast, slow = Contestant("fast", TASK, rates=[30.0, 10.0, 50.0]), Contestant("slow", TASK, rates=[10.0, 5.0, 20.0])
    assert ratios(fast, slow) == [2.0, 2.5, 3.0]
    assert (median(ratios(fast, slow)), median([])) == (2.5, None)


def test_results_are_printed_as_tables_with_empty_cells_for_missing_values() -> None:
    measured = {"preset": "tiny", "measure": "fused", "ratio": 1.25, "rate": 10.0, "first_s": 2.0, "failure": None}
    failed = measured | {"measure": "compile", "ratio": None, "rate": None, "failure": "status 1: no compiler"}
    row = {"network": "tiny", "kiln": 200.0, "other": 100.0, "ratio": 2.0, "lowest": 1.9, "highest": 2.1}
    text = as_markdown(
        {
            "device": "CPU, 1 threads", "torch": "2", "at": "now", "rounds": 3, "turn_s": 1.0,
            "load_average_before": 0.0, "load_average_after": 1.0,
            "matmul_flops_per_second": {"fp32": 1e11, "bf16": 1e12},
            "ratio": [row | {"flops_per_image": 1e8, "precision": "fp32", "failures": {}}],
            "ablation": [measured, failed],
        }
    )  # fmt: skip
    # 200 images/s of 0.1 GFLOP each are 20 of 100 GFLOP/s
    assert "| tiny | 200.0 | 100.0 | **2.00** (1.90 to 2.10) | 20% |" in text
    assert "| tiny | fused | 1.25 | 10.0 | 2.0 |" in text
    assert "| tiny | compile |  |  | 2.0 |" in text
    assert "compile failed: status 1: no compiler" in text


@pytest.mark.parametrize("step", ["a whole run", "ratio"])
def test_the_benchmark_for_gpu_machines_runs_in_a_small_version_on_a_cpu(tmp_path: Path, step: str) -> None:
    out = tmp_path / "gpu.json"
    status = gpu.main(["--device", "cpu", "--quick", "--steps", step, "--out", str(out)])
    done = json.loads(out.read_text())["steps"]
    assert (status, done[step]["status"]) == (0, 0), done[step]["printed"]
    if step == "ratio":
        assert done[step]["figures"]["ratio"][0]["ratio"] > 0


def test_a_step_that_exceeds_its_time_is_killed_with_its_child_processes(tmp_path: Path) -> None:
    # Given a step that starts another process, both of which never end
    pid_file = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']);"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid)); print('begun', flush=True); child.wait()"
    )
    # When its time is up
    done = gpu._run([sys.executable, "-c", code], {}, 2.0, tmp_path / "none.json")
    # Then neither process is left, and the output up to that moment is reported
    assert (done["status"], done["printed"], done["figures"]) == ("ended after 2 s", "begun\n", None)
    child = int(pid_file.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(child).wait(timeout=60)  # it is killed; the system takes a moment to report it
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_graphs_are_compared_with_the_first_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plain", "other"):
        shutil.copy(ROOT / "models" / "starter" / "generator.onnx", tmp_path / f"{name}.onnx")
    graphs.main([str(tmp_path / "plain.onnx"), str(tmp_path / "other.onnx"), "--rounds", "1"])
    head, _, plain, other = capsys.readouterr().out.splitlines()
    assert head == "| graph | n=1 | n=8 | n=32 | n=64 |"
    assert plain.startswith("| plain | 1.00 (")
    assert other.startswith("| other | ")
