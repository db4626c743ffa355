"""`kiln doctor`, shell completion, and an API that is newer than the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kiln.cli.completion import complete_job, complete_model, complete_override, complete_preset, complete_status
from kiln.cli.main import app
from services.dev import free_port
from tests.kiln.command import Run, printed_json, run, serving


def test_doctor_lists_problems_and_how_to_correct_them(command: Run, tmp_path: Path) -> None:
    done = command("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert {"client", "packages of the API", "packages of the trainer", "GPU", "disk", "data sets"} < set(findings)
    assert findings["models"]["found"] == "first"
    assert "first" in findings["ready"]["found"]
    assert findings["Redis"]["found"].startswith("through the API")
    assert done.returncode == 0, [finding for finding in findings.values() if not finding["is_well"]]

    alone = run(f"http://127.0.0.1:{free_port()}", tmp_path, "doctor")
    assert alone.returncode == 1
    assert "kiln up" in alone.stdout
    assert "no response at redis://127.0.0.1:1" in alone.stdout


def test_doctor_shows_the_warnings_of_readyz(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "/readyz": {"status": "ready", "model_id": "m", "provider": "CPU", "warnings": ["Redis may evict jobs"]},
        "/jobs": {"data": [], "has_more": False}, "/models": {"data": []}, "/presets": {"data": []},
    }  # fmt: skip
    with serving(answers) as url:
        monkeypatch.setenv("KILN_URL", url)
        done = CliRunner().invoke(app, ["doctor", "--json"])

    assert done.exit_code == 1
    last = json.loads(done.stdout)[-1]
    assert (last["what"], last["is_well"], last["found"]) == ("warning", False, "Redis may evict jobs")


def test_a_status_of_a_newer_server_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {
        "id": "1",
        "preset": "tiny",
        "dataset": "d",
        "status": "hibernating",
        "mood": "calm",
        "created_at": "2030-01-01T00:00:00Z",
    }
    sweep = {
        "id": "s", "preset": "tiny", "dataset": "d", "status": "resting", "created_at": "2030-01-01T00:00:00Z",
        "space": {"lr": {}}, "objective": {"metric": "fid"}, "n_trials": 1,
        "trials": [{"number": 0, "params": {"lr": 0.1}, "state": "promoted"}],
    }  # fmt: skip
    with serving({"/jobs": {"data": [job], "has_more": False}, "/sweeps/s": sweep}) as url:
        monkeypatch.setenv("KILN_URL", url)

        assert "hibernating" in CliRunner().invoke(app, ["jobs"]).stdout
        (listed,) = json.loads(CliRunner().invoke(app, ["jobs", "--json"]).stdout)
        assert listed["mood"] == "calm"
        shown = CliRunner().invoke(app, ["sweeps", "s"]).stdout
        assert "resting" in shown
        assert "promoted" in shown


def test_the_shell_completes_names_that_the_api_knows(command: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = printed_json(command("train", "--json"))["id"]
    monkeypatch.setenv("KILN_URL", url)

    assert complete_preset("ti") == ["tiny"]
    assert complete_override("lr_s") == ["lr_step_nimg=", "lr_step_factor="]
    assert complete_status("s") == ["succeeded"]
    assert complete_job(job_id[:8]) == [job_id]
    assert complete_model("f") == ["first"]


def test_without_an_api_the_shell_completes_nothing_and_shows_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", "nonsense"):
        monkeypatch.setenv("KILN_URL", url)

        assert complete_preset("") == complete_job("") == complete_model("") == complete_override("") == []
        assert complete_status("lo") == ["lost"]
