"""The command `kiln`, run as a process against a real API."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from services.dev import free_port
from shared.jobs import transitions
from shared.jobs.record import JobStatus, Progress, Reason
from shared.jobs.store import RedisJobStore
from tests.kiln.command import Run, environment_for, printed_json, run


def test_a_job_is_queued_listed_paused_resumed_cancelled_and_deleted(command: Run) -> None:
    overrides = ("-o", "lr=1e-4", "-o", "g_channels=[64,48,32]")
    job = printed_json(command("train", "-p", "tiny", *overrides, "--name", "mine", "--json"))
    assert (job["status"], job["name"], job["config"]["lr"]) == ("queued", "mine", 1e-4)
    assert job["config"]["g_channels"] == [64, 48, 32]

    table = command("jobs").stdout
    assert job["id"] in table
    assert "mine" in table
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        (after,) = printed_json(command(action, job["id"], "--json"))
        assert after["status"] == status
    assert printed_json(command("jobs", "--status", "queued", "--json")) == []

    assert command("jobs", "delete", job["id"]).stdout == f"deleted {job['id']}\n"
    assert printed_json(command("jobs", "--json")) == []


def test_a_dry_run_shows_the_changed_values_and_queues_nothing(command: Run) -> None:
    shown = command("train", "--dry-run", "-o", "lr=0.001").stdout

    assert "0.001" in shown
    assert "0.0004" in shown  # the preset's
    assert printed_json(command("jobs", "--json")) == []


def test_a_dry_run_of_a_classifier_shows_its_config(command: Run) -> None:
    """`classifier` is not in the list of presets."""
    done = command("train", "--preset", "classifier", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "label_smoothing" in done.stdout


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [({"status": JobStatus.SUCCEEDED, "model_id": "first"}, 0, "first"),
     ({"status": JobStatus.FAILED, "reason": Reason.DIVERGED, "error": "loss is nan"}, 1, "diverged: loss is nan")],
    ids=["succeeded", "failed"],
)  # fmt: skip
def test_watch_ends_with_the_job(
    command: Run, store: RedisJobStore, end: dict[str, Any], code: int, message: str
) -> None:
    job_id = printed_json(command("train", "-o", "total_nimg=1000", "--json"))["id"]
    store.update(job_id, partial(transitions.claim, worker="w", lease_s=60))
    progress = Progress.at(500, 1000, 10.0)
    store.update(
        job_id, partial(transitions.renew, fence=1, lease_s=60, progress=progress), [{"nimg": 500.0, "loss_d": 0.5}]
    )
    store.update(job_id, partial(transitions.finish, fence=1, **end))

    shown, lines = command("watch", job_id), command("watch", job_id, "--json")

    assert shown.returncode == lines.returncode == code
    assert message in shown.stdout
    assert json.loads(lines.stdout.splitlines()[-1])["status"] == end["status"]


def test_images_go_to_a_file_or_to_standard_output(command: Run, url: str, tmp_path: Path) -> None:
    done = command("generate", "cat", "-n", "4", "--seed", "7", "-o", "cats.png")
    assert (done.returncode, done.stdout) == (0, "cats.png\n"), done.stderr
    with Image.open(tmp_path / "cats.png") as image:
        assert image.size == (64, 64)

    again = subprocess.run(
        [sys.executable, "-m", "kiln.cli.main", "generate", "cat", "-n", "4", "--seed", "7", "-o", "-"],
        cwd=tmp_path, capture_output=True, check=True, env=environment_for(url, tmp_path),
    )  # fmt: skip
    assert again.stdout == (tmp_path / "cats.png").read_bytes()
    assert Image.open(io.BytesIO(again.stdout)).format == "PNG"


def test_a_png_is_verified_and_a_changed_one_fails(command: Run, tmp_path: Path) -> None:
    command("generate", "cat", "-n", "1", "-o", "cat.png")
    assert "reproduced" in command("verify", "cat.png").stdout
    assert printed_json(command("verify", "cat.png", "--json"))["reproduced"] is True

    (tmp_path / "changed.png").write_bytes((tmp_path / "cat.png").read_bytes() + b"x")
    done = command("verify", "changed.png")

    assert done.returncode == 1
    assert "not reproduced: " in done.stdout


def test_an_interpolation_is_a_strip_or_an_animation(command: Run, tmp_path: Path) -> None:
    done = command("interpolate", "cat", "dog", "--steps", "3", "--seed", "1")
    assert (done.returncode, done.stdout) == (0, "cat-dog.png\n"), done.stderr
    with Image.open(tmp_path / "cat-dog.png") as image:
        assert image.size == (96, 32)

    command("interpolate", "cat", "dog", "--steps", "3", "--animated", "-o", "moving.png")
    with Image.open(tmp_path / "moving.png") as image:
        assert (image.size, getattr(image, "n_frames", 1)) == ((32, 32), 3)


def test_models_and_presets_are_listed_and_a_model_is_deleted(command: Run) -> None:
    assert [model["manifest"]["id"] for model in printed_json(command("models", "--json"))] == ["first"]
    assert "first" in command("models").stdout
    assert printed_json(command("promote", "first", "--alias", "best", "--json")) == {
        "alias": "best",
        "model_id": "first",
    }
    assert "best" in command("models").stdout
    assert command("models", "delete", "first").returncode == 4  # an alias points at it
    assert "3,448,576" in command("presets").stdout
    assert "arXiv:1704.00028" in command("presets", "wgan-gp").stdout


WRONG = [
    (("train", "-o", "lr=-1"), 2, "overrides.lr"),
    (("train", "-o", "lr"), 2, "FIELD=VALUE"),
    (("train", "-p", "tinny"), 2, "did you mean 'tiny'"),
    (("generate", "unicorn"), 2, "unicorn"),
    (("watch", "nothing"), 3, "nothing"),
    (("cancel", "../etc"), 3, "../etc"),
    (("promote", "nothing"), 3, "nothing"),
    (("models", "delete", "nothing"), 3, "nothing"),
    (("sweep", "-s", "lr=a..b", "-m", "loss_g"), 2, "lr=1e-5..1e-2"),
    (("sweep", "-s", "lr", "-m", "loss_g"), 2, "FIELD=LOW..HIGH"),
    (("compare", "x", "-o", "x.docx"), 2, ".csv"),
    (("jobs", "--status", "sleeping"), 2, "sleeping"),
    (("presets", "nothing"), 3, "nothing"),
    (("nonsense",), 2, "nonsense"),
]


def test_every_refusal_has_a_message_and_an_exit_code(command: Run) -> None:
    for arguments, code, message in WRONG:
        done = command(*arguments)

        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert message in " ".join(done.stderr.split()), arguments  # usage errors are wrapped
        assert "Traceback" not in done.stderr


def test_an_action_that_does_not_fit_the_status_has_its_own_exit_code(command: Run) -> None:
    job_id = printed_json(command("train", "--json"))["id"]

    for action, reason in ((("finish",), "never trained"), (("jobs", "delete"), "cancel it before")):
        done = command(*action, job_id)

        assert done.returncode == 4
        assert reason in done.stderr


def test_without_an_api_the_error_names_the_address_and_the_command_that_starts_one(tmp_path: Path) -> None:
    done = run(f"http://127.0.0.1:{free_port()}", tmp_path, "jobs")

    assert done.returncode == 5
    assert "kiln up" in done.stderr
    assert run("nonsense", tmp_path, "jobs").returncode == 2


def test_jobs_are_compared_and_sweeps_are_shown(command: Run, url: str) -> None:
    first, second = (printed_json(command("train", "--name", name, "--json"))["id"] for name in ("one", "two"))
    rows = printed_json(command("compare", first, second, "--json"))
    assert [row["name"] for row in rows] == ["one", "two"]
    shown = command("compare", first, second).stdout
    assert "one" in shown
    assert "final loss d" in shown

    assert printed_json(command("sweeps", "--json")) == []
    assert "no sweeps" in command("sweeps").stdout
    plan = {"preset": "tiny", "space": {"lr": {"type": "float", "low": 1e-4, "high": 1e-3}}, "n_trials": 2,
            "objective": {"metric": "loss_g", "direction": "minimize"}}  # fmt: skip
    sweep_id = httpx2.post(f"{url}/sweeps", json=plan).json()["id"]
    assert sweep_id in command("sweeps").stdout
    assert "running" in command("sweeps", sweep_id).stdout
    assert printed_json(command("sweeps", sweep_id, "--cancel", "--json"))["status"] == "cancelled"
    assert command("sweeps", sweep_id, "--promote").returncode == 4
