"""The command `kiln`, as a process, against a real API."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from kiln._requests import JobData
from kiln.cli.display import Watch
from kiln.cli.main import app, complete_job, complete_model, complete_override, complete_preset
from services.dev import free_port
from shared.jobs import transitions
from shared.jobs.record import JobStatus, Progress, Reason
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.processes import ROOT, running_api, wait_for

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def api(shared_settings: Settings) -> Iterator[str]:
    """An API that serves the model `first`."""
    publish(ModelRegistry(ArtifactStore(shared_settings.artifact_url)), "first")
    with running_api(shared_settings) as http:
        wait_for(lambda: http.get("/readyz").status_code, lambda status: status == 200)
        yield str(http.base_url)


@pytest.fixture
def kiln(api: str, redis_url: str, tmp_path: Path) -> Run:
    """`kiln(*arguments)` in an empty folder, on that API, without any job."""
    return partial(run, api, tmp_path)


def run(url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kiln.cli.main", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"KILN_URL": url, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1",
                          "KILN_DATA": str(folder), "KILN_DATASETS": str(folder), "KILN_REDIS_URL": "redis://127.0.0.1:1"},
    )  # fmt: skip


def says(done: subprocess.CompletedProcess[str]) -> Any:
    """What a command with --json printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def store(settings: Settings) -> Iterator[RedisJobStore]:
    store = RedisJobStore(settings.redis_url)
    yield store
    store.close()


def test_a_job_is_made_listed_and_steered(kiln: Run) -> None:
    job = says(kiln("train", "-p", "tiny", "-o", "lr=1e-4", "-o", "g_channels=[64,48,32]", "--name", "mine", "--json"))
    assert (job["status"], job["name"], job["config"]["lr"]) == ("queued", "mine", 1e-4)
    assert job["config"]["g_channels"] == [64, 48, 32]

    table = kiln("jobs").stdout
    assert job["id"] in table
    assert "mine" in table
    for what, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        (after,) = says(kiln(what, job["id"], "--json"))
        assert after["status"] == status
    assert says(kiln("jobs", "--status", "queued", "--json")) == []


def test_a_dry_run_shows_what_differs_and_makes_nothing(kiln: Run) -> None:
    shown = kiln("train", "--dry-run", "-o", "lr=0.001").stdout

    assert "0.001" in shown
    assert "0.0004" in shown  # the preset's
    assert says(kiln("jobs", "--json")) == []


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [({"status": JobStatus.SUCCEEDED, "model_id": "first"}, 0, "first"),
     ({"status": JobStatus.FAILED, "reason": Reason.DIVERGED, "error": "loss is nan"}, 1, "diverged: loss is nan")],
    ids=["succeeded", "failed"],
)  # fmt: skip
def test_watching_ends_with_the_job(kiln: Run, store: RedisJobStore, end: dict[str, Any], code: int, told: str) -> None:
    job_id = says(kiln("train", "-o", "total_nimg=1000", "--json"))["id"]
    store.update(job_id, partial(transitions.claim, worker="w", lease_s=60))
    progress = Progress.at(500, 1000, 10.0)
    store.update(
        job_id, partial(transitions.renew, fence=1, lease_s=60, progress=progress), [{"nimg": 500.0, "loss_d": 0.5}]
    )
    store.update(job_id, partial(transitions.finish, fence=1, **end))

    shown, lines = kiln("watch", job_id), kiln("watch", job_id, "--json")

    assert shown.returncode == lines.returncode == code
    assert told in shown.stdout
    assert json.loads(lines.stdout.splitlines()[-1])["status"] == end["status"]


def test_images_land_in_a_file_or_on_standard_output(kiln: Run, tmp_path: Path) -> None:
    shown = kiln("generate", "cat", "-n", "4", "--seed", "7", "-o", "cats.png")
    assert shown.returncode == 0, shown.stderr
    assert "▀" in shown.stdout
    with Image.open(tmp_path / "cats.png") as image:
        assert image.size == (64, 64)

    again = subprocess.run(
        [sys.executable, "-m", "kiln.cli.main", "generate", "cat", "-n", "4", "--seed", "7", "-o", "-"],
        cwd=tmp_path, capture_output=True, check=True, env=os.environ | kiln_environment(kiln),
    )  # fmt: skip
    assert again.stdout == (tmp_path / "cats.png").read_bytes()
    assert Image.open(io.BytesIO(again.stdout)).format == "PNG"


def kiln_environment(kiln: Any) -> dict[str, str]:
    return {"KILN_URL": kiln.args[0], "PYTHONPATH": str(ROOT)}


def test_models_and_presets_are_shown(kiln: Run) -> None:
    assert [model["manifest"]["id"] for model in says(kiln("models", "--json"))] == ["first"]
    assert "first" in kiln("models").stdout
    assert says(kiln("promote", "first", "--alias", "best", "--json")) == {"alias": "best", "model_id": "first"}
    assert "best" in kiln("models").stdout
    assert "3,448,576" in kiln("presets").stdout
    assert "arXiv:1704.00028" in kiln("presets", "wgan-gp").stdout


WRONG = [
    (("train", "-o", "lr=-1"), 2, "overrides.lr"),
    (("train", "-o", "lr"), 2, "FIELD=VALUE"),
    (("train", "-p", "tinny"), 2, "did you mean 'tiny'"),
    (("generate", "unicorn"), 2, "unicorn"),
    (("watch", "nothing"), 3, "nothing"),
    (("cancel", "../etc"), 3, "../etc"),
    (("promote", "nothing"), 3, "nothing"),
    (("presets", "nothing"), 3, "nothing"),
    (("nonsense",), 2, "nonsense"),
]


def test_what_goes_wrong_is_one_line_and_a_code(kiln: Run) -> None:
    for arguments, code, told in WRONG:
        done = kiln(*arguments)

        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert told in " ".join(done.stderr.split()), arguments  # wherever the lines were broken
        assert "Traceback" not in done.stderr


def test_what_cannot_be_done_in_this_state_has_its_own_code(kiln: Run) -> None:
    job_id = says(kiln("train", "--json"))["id"]

    done = kiln("finish", job_id)

    assert done.returncode == 4
    assert "never trained" in done.stderr


def test_an_api_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    done = run(f"http://127.0.0.1:{free_port()}", tmp_path, "jobs")

    assert done.returncode == 5
    assert "kiln up" in done.stderr
    assert run("nonsense", tmp_path, "jobs").returncode == 2


def test_the_doctor_says_what_is_missing_and_what_to_do(kiln: Run, tmp_path: Path) -> None:
    done = kiln("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert {"Python", "packages of the API", "packages of the trainer", "GPU", "disk", "data sets"} < set(findings)
    assert findings["models"]["found"] == "first"
    assert done.returncode == 0, [finding for finding in findings.values() if not finding["is_well"]]

    alone = run(f"http://127.0.0.1:{free_port()}", tmp_path, "doctor")
    assert alone.returncode == 1
    assert "kiln up" in alone.stdout


def test_every_command_explains_itself() -> None:
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert {"up", "train", "jobs", "watch", "cancel", "pause", "resume", "finish", "generate", "models"} < set(commands)
    for command in sorted(set(commands) - {"evaluate"}):  # whose options are the trainer's, and so is their explanation
        done = CliRunner().invoke(app, [command, "--help"])

        assert done.exit_code == 0
        assert f"kiln {command}" in done.stdout


def test_watching_draws_curves_and_the_latest_grid(settings: Settings) -> None:
    """In a terminal with colours; the text is what Rich would send there."""
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, color_system="truecolor", width=100)
    progress = Progress.at(500, 1000, 10.0)
    job = JobData(
        id="1", preset="tiny", name=None, dataset="d", status=JobStatus.RUNNING, reason=None, error=None, attempt=1,
        progress=progress, metrics={}, config={}, created_at=datetime.now(UTC), started_at=None, finished_at=None,
        model_id=None, links={},
    )  # fmt: skip
    grid = io.BytesIO()
    Image.new("RGB", (320, 320), (200, 30, 40)).save(grid, "png")

    screen = Watch(console)
    assert screen.shows_pictures
    for nimg in range(8):
        screen.show(job.model_copy(update={"metrics": {"nimg": float(nimg), "loss_d": float(nimg)}}))
    screen.show_grid(grid.getvalue(), "sample grid after 500 images")
    console.print(screen.picture)

    assert "▁▂▃▄▅▆▇█" in said.getvalue()
    assert "38;2;200;30;40;48;2;200;30;40" in said.getvalue()
    assert not Watch(Console(file=io.StringIO())).shows_pictures


def test_the_shell_completes_what_there_is(kiln: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = says(kiln("train", "--json"))["id"]
    monkeypatch.setenv("KILN_URL", kiln.args[0])  # type: ignore[attr-defined]

    assert complete_preset("ti") == ["tiny"]
    assert complete_override("lr_s") == ["lr_step_nimg=", "lr_step_factor="]
    assert complete_job(job_id[:8]) == [job_id]
    assert complete_model("f") == ["first"]
    monkeypatch.setenv("KILN_URL", f"http://127.0.0.1:{free_port()}")
    assert complete_job("") == []


def test_jobs_are_compared_and_sweeps_are_shown(kiln: Run) -> None:
    first, second = (says(kiln("train", "--name", name, "--json"))["id"] for name in ("one", "two"))
    rows = says(kiln("compare", first, second, "--json"))
    assert [row["name"] for row in rows] == ["one", "two"]
    shown = kiln("compare", first, second).stdout
    assert "one" in shown
    assert "final loss d" in shown

    assert says(kiln("sweeps", "--json")) == []
    assert "no sweeps yet" in kiln("sweeps").stdout
    plan = {"preset": "tiny", "space": {"lr": {"type": "float", "low": 1e-4, "high": 1e-3}}, "n_trials": 2,
            "objective": {"metric": "loss_g", "direction": "minimize"}}  # fmt: skip
    sweep_id = httpx2.post(f"{kiln.args[0]}/sweeps", json=plan).json()["id"]  # type: ignore[attr-defined]
    assert sweep_id in kiln("sweeps").stdout
    assert "running" in kiln("sweeps", sweep_id).stdout
    assert says(kiln("sweeps", sweep_id, "--cancel", "--json"))["status"] == "cancelled"
    assert kiln("sweeps", sweep_id, "--promote").returncode == 4
