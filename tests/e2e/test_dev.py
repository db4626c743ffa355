"""`python -m services.dev`: it starts and stops all services, and continues jobs after a restart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.processes import ROOT, processes_of, running_stack, small_overrides, wait_for, write_color_dataset

ENDLESS = small_overrides(total_nimg=10**9)


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    write_color_dataset(tmp_path / "datasets")
    return tmp_path / "datasets"


def has_advanced(attempt: int, nimg: int, job: dict[str, Any]) -> bool:
    return (job["attempt"], job["progress"]["images_seen"] > nimg) == (attempt, True)


def test_a_signal_stops_every_process_and_a_restart_continues_the_job(tmp_path: Path, datasets: Path) -> None:
    data, job_id, nimg = tmp_path / "data", "", 0
    for attempt, stop_signal in enumerate((signal.SIGINT, signal.SIGTERM), start=1):
        # Given a stack that trains; the second one continues from the checkpoint of the first
        with running_stack(data, datasets) as stack:
            job_id = job_id or stack.submit(preset="tiny", dataset="colors", overrides=ENDLESS)
            job = stack.wait_for_job(job_id, partial(has_advanced, attempt, nimg))
            nimg = job["progress"]["images_seen"]
            assert len(processes_of(data)) >= 4  # redis, worker, trainer, API

            # When it receives the signal, then it exits with 0 and its child processes are gone
            stack.process.send_signal(stop_signal)
            assert stack.process.wait() == 0
            assert processes_of(data) == {}

    # Then a third one finishes the job
    with running_stack(data, datasets) as stack:
        assert stack.http.post(f"/jobs/{job_id}/finish").status_code == 202
        job = stack.wait_until_over(job_id)
        assert (job["status"], job["attempt"]) == ("succeeded", 3)
        assert job["progress"]["images_seen"] >= nimg
        assert stack.http.get("/models").json()["data"][0]["manifest"]["job_id"] == job_id


@pytest.mark.parametrize("victim", ["redis", "worker", "api", "dev"])
def test_a_killed_process_takes_all_others_with_it(victim: str, tmp_path: Path, datasets: Path) -> None:
    data = tmp_path / "data"
    # Given a stack that trains
    with running_stack(data, datasets, KILN_STOP_GRACE_S="5") as stack:
        stack.submit(preset="tiny", dataset="colors", overrides=ENDLESS)
        wait_for(
            lambda: processes_of(data),
            lambda processes: any("services.trainer train" in command for command in processes.values()),
        )

        # When one of its processes, or the parent, is killed
        os.kill(stack.process.pid if victim == "dev" else stack.pids()[victim], signal.SIGKILL)

        # Then all others end too, and the exit status is not 0
        assert stack.process.wait() == (-signal.SIGKILL if victim == "dev" else 1)
        wait_for(lambda: processes_of(data), lambda processes: processes == {})


def test_two_stacks_run_side_by_side(tmp_path: Path, datasets: Path) -> None:
    with running_stack(tmp_path / "one", datasets) as one, running_stack(tmp_path / "two", datasets) as two:
        publish(ModelRegistry(ArtifactStore(f"file://{one.data}/artifacts")), "first")
        (datasets / "empty" / "train" / "cat").mkdir(parents=True)
        job_id = one.submit(preset="tiny", dataset="empty")

        assert one.wait_until_over(job_id)["reason"] == "bad_config"
        assert two.http.get(f"/jobs/{job_id}").status_code == 404
        one.wait_for_job(job_id, lambda _: one.http.get("/readyz").status_code == 200)
        assert two.http.get("/models").json()["data"] == []


def test_a_port_in_use_is_reported_in_one_line_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = start_and_fail(tmp_path, port)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr
    assert not (tmp_path / "data" / "redis").exists()


def test_a_second_stack_on_the_same_data_folder_is_refused(tmp_path: Path, datasets: Path) -> None:
    with running_stack(tmp_path / "data", datasets):
        done = start_and_fail(tmp_path, 1)

    assert done.returncode == 1
    assert "in use by another" in done.stderr


def test_an_invalid_setting_is_reported_with_its_name_and_value(tmp_path: Path) -> None:
    done = start_and_fail(tmp_path, 70_000)

    assert done.returncode == 1
    assert "KILN_PORT" in done.stderr
    assert "70000" in done.stderr


def start_and_fail(folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.dev", "--port", str(port), "--data", str(folder / "data"),
               "--dashboard-port", "0"]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
