"""What the command `kiln` prints: to a terminal, to a pipe, to a full disk; its help pages."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import kiln
from kiln.cli.main import PANELS, app
from kiln.cli.watch import LiveView
from kiln.types import JobData
from shared.jobs import transitions
from shared.jobs.record import Event, JobStatus, Progress
from shared.jobs.store import RedisJobStore
from tests.kiln.command import Run, environment_for, printed_json, run

UNWRITABLE = [
    ("generate", "cat", "-o", "/nonexist/x.png"),
    ("generate", "cat", "-o", "."),
    ("interpolate", "cat", "dog", "-o", "/dev/full"),
    ("verify", "/nonexist/x.png"),
]


@pytest.mark.parametrize("arguments", UNWRITABLE, ids=" ".join)
def test_a_file_that_cannot_be_written_or_read_is_one_line(command: Run, arguments: tuple[str, ...]) -> None:
    done = command(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kiln: cannot ")
    assert arguments[-1] in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_behind_standard_output_is_one_line(url: str, tmp_path: Path) -> None:
    for arguments in (["presets"], ["presets", "--json"], ["generate", "cat", "-o", "-"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "kiln.cli.main", *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
                cwd=tmp_path, check=False, env=environment_for(url, tmp_path),
            )  # fmt: skip

        assert done.returncode in (1, 2)
        assert done.stderr.startswith("kiln: cannot write ")
        assert done.stderr.count("\n") == 1, done.stderr


def test_nothing_is_drawn_when_standard_output_is_no_terminal(command: Run, store: RedisJobStore) -> None:
    """No colours, no bars, no images, and no row of a table that is broken into two."""
    job_id = printed_json(command("train", "--name", "x" * 190, "--json"))["id"]
    finish(store, job_id)

    for arguments in (("generate", "cat"), ("watch", job_id), ("jobs",), ("models",), ("presets",)):
        done = command(*arguments)

        assert done.returncode == 0, done.stderr
        assert not set("▀━▁█\x1b") & set(done.stdout), arguments
    (row,) = [line for line in command("jobs").stdout.splitlines() if line.startswith(job_id)]
    assert "x" * 190 in row


def test_ctrl_c_ends_the_display_and_not_the_job(url: str, store: RedisJobStore, tmp_path: Path) -> None:
    job_id = printed_json(run(url, tmp_path, "train", "--json"))["id"]
    store.update(job_id, lambda job, _: job, [], [Event(kind="note", message="it has begun")])

    # A shell starts background jobs, and perhaps this test, with SIGINT ignored.
    allow = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{allow}; from kiln.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "watch", job_id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment_for(url, tmp_path),
    ) as watching:  # fmt: skip
        try:
            assert watching.stdout is not None
            assert "it has begun" in watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            _, errors = watching.communicate()
        finally:
            watching.kill()

    assert watching.returncode == 130
    assert errors == f"kiln: the job continues; `kiln watch {job_id}` shows it again\n"
    assert store.get(job_id).status is JobStatus.QUEUED


def test_names_are_printed_as_they_are(command: Run) -> None:
    """Rich's markup and emoji codes in them mean nothing."""
    command("train", "--name", "[red]shy[/] :cat: \\[")

    assert "[red]shy[/] :cat: \\[" in command("jobs").stdout


def finish(store: RedisJobStore, job_id: str) -> None:
    """Writes what a worker would write for a job that succeeds."""
    store.update(job_id, partial(transitions.claim, worker="w", lease_s=60))
    store.update(
        job_id, partial(transitions.renew, fence=1, lease_s=60, progress=Progress.at(500, 1000, 10.0)),
        [{"nimg": 500.0, "loss_d": 0.5}], [Event(kind="sample", message="a grid", data={"nimg": 500})],
    )  # fmt: skip
    store.update(job_id, partial(transitions.finish, fence=1, status=JobStatus.SUCCEEDED, model_id="first"))


def test_version_and_help_show_the_panels_with_up_and_train_first() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"kiln {kiln.__version__}\n"

    shown = CliRunner().invoke(app, ["--help"]).stdout
    positions = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert positions == sorted(positions)
    assert shown.index(" up ") < shown.index(" train ") < shown.index(" presets ")
    assert list(PANELS) == ["Train", "Generate", "Models", "Sweeps", "This machine"]


def test_every_command_has_a_help_page() -> None:
    names = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert {"up", "train", "jobs", "watch", "cancel", "pause", "resume", "finish", "generate", "models"} < names
    names -= {"up", "evaluate"}  # those two pass --help on to the program they start
    for command in sorted(names | {"jobs delete", "models delete"}):
        done = CliRunner().invoke(app, [*command.split(), "--help"])

        assert done.exit_code == 0
        assert f"kiln {command}" in done.stdout


def test_the_live_view_draws_curves_and_the_latest_sample_grid() -> None:
    """In a terminal with colours: the text is what Rich sends there."""
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, color_system="truecolor", width=100)
    job = JobData(
        id="1", preset="tiny", dataset="d", status="running", attempt=1,
        progress=kiln.Progress(images_seen=500, images_total=1000, fraction=0.5, images_per_second=10.0),
        created_at=datetime.now(UTC),
    )  # fmt: skip
    grid = io.BytesIO()
    Image.new("RGB", (320, 320), (200, 30, 40)).save(grid, "png")

    view = LiveView(console)
    assert view.shows_images
    for nimg in range(8):
        view.show(job.model_copy(update={"metrics": {"nimg": float(nimg), "loss_d": float(nimg), "phase": "warm-up"}}))
    view.show_grid(grid.getvalue(), "sample grid after 500 images")
    console.print(view.content)

    assert "warm-up" in sent.getvalue()  # a newer server may send more than numbers
    assert "▁▂▃▄▅▆▇█" in sent.getvalue()
    assert "38;2;200;30;40;48;2;200;30;40" in sent.getvalue()
    assert not LiveView(Console(file=io.StringIO())).shows_images
