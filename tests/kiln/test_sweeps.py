"""Sweeps and comparisons, by the Python client and by the command, against a real API process."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from kiln import Conflict, InvalidInput, Kiln, NotFound
from kiln.cli.main import app
from shared.jobs import transitions
from shared.jobs.record import JobStatus
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import publish
from tests.processes import running_api, wait_for

SPACE = {"lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}}


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """The address of an API that serves the model `first`."""
    publish(ModelRegistry(ArtifactStore(settings.artifact_url)), "first")
    with running_api(settings) as http:
        wait_for(lambda: http.get("/readyz").status_code, lambda status: status == 200)
        yield str(http.base_url)


@contextmanager
def worker(settings: Settings) -> Iterator[None]:
    """Finishes every queued job: its loss is its learning rate, its model is `first`."""
    store, stop = RedisJobStore(settings.redis_url), threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            for job in store.waiting(9):
                claimed = store.update(job.id, partial(transitions.claim, worker="w", lease_s=60))
                end = partial(transitions.finish, fence=claimed.fence, status=JobStatus.SUCCEEDED, model_id="first")
                store.update(job.id, end, [{"nimg": 100.0, "loss_g": job.gan_config.lr, "loss_d": 1.0}])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        store.close()


def test_a_sweep_runs_to_its_end_and_its_best_model_is_promoted(url: str, settings: Settings) -> None:
    with Kiln(url) as kiln:
        # Given a sweep without a worker
        with pytest.raises(InvalidInput):
            kiln.sweeps.create("tiny", SPACE, "fid", n_trials=3)
        assert kiln.sweeps.dry_run("tiny", SPACE, "loss_g", n_trials=3)["config"]["lr"] == 1e-5
        sweep = kiln.sweeps.create("tiny", SPACE, "loss_g", n_trials=3, name="mine", overrides={"batch_size": 16})
        assert [found.id for found in kiln.sweeps.list()] == [sweep.id]
        with pytest.raises(Conflict):
            kiln.sweeps.promote(sweep.id)

        # When a worker starts and the client waits
        seen: list[int] = []
        with worker(settings):
            done = kiln.sweeps.wait(sweep.id, lambda sweep: seen.append(sweep.counts["complete"]))

        # Then all trials are complete, `best` has the lowest value, and its model can be promoted
        assert (done.status, done.counts["complete"]) == ("succeeded", 3)
        assert seen[0] == 0
        assert done.best is not None
        assert done.best.value == min(trial.params["lr"] for trial in done.trials)
        assert kiln.sweeps.promote(sweep.id, "tuned") == "first"
        assert kiln.sweeps.cancel(sweep.id) == done  # it is over
        with pytest.raises(NotFound):
            kiln.sweeps.get("nothing")


def test_the_command_runs_lists_cancels_and_compares(url: str, settings: Settings, tmp_path: Path) -> None:
    kiln: Callable[..., Any] = partial(CliRunner(env={"KILN_URL": url, "COLUMNS": "250"}).invoke, app)
    start = ["sweep", "-s", "lr=1e-5..1e-3,log", "-s", "loss=hinge,bce", "-m", "loss_g", "-n", "2"]

    assert "is valid" in kiln([*start, "--dry-run"]).stdout
    assert "no sweeps" in kiln(["sweeps"]).stdout
    with worker(settings):
        ended = kiln([*start, "--name", "mine", "--watch"])
    assert (ended.exit_code, "2 of 2" in ended.stdout) == (0, True), ended.output

    (listed,) = json.loads(kiln(["sweeps", "--json"]).stdout)
    table = kiln(["sweeps"]).stdout
    assert "mine" in table
    assert "lr, loss" in table
    shown = json.loads(kiln(["sweeps", listed["id"], "--json"]).stdout)
    trials = [trial["job_id"] for trial in shown["trials"]]
    assert all(job_id in kiln(["sweeps", listed["id"]]).stdout for job_id in trials)
    steered = kiln(["sweeps", listed["id"], "--promote", "--alias", "tuned", "--cancel", "--json"])
    assert json.loads(steered.stdout)["status"] == "succeeded"
    with Kiln(url) as api:
        assert "tuned" in api.models.get("first").aliases

    side_by_side = kiln(["compare", *trials]).stdout
    assert "initial loss d" in side_by_side
    assert "lr" in side_by_side  # in which they differ
    for suffix, begin in ((".md", b"| job |"), (".csv", b"job,"), (".json", b"{"), (".png", b"\x89PNG")):
        file = tmp_path / f"compared{suffix}"
        assert kiln(["compare", *trials, "-o", str(file)]).exit_code == 0
        assert file.read_bytes().startswith(begin)
    with Image.open(io.BytesIO((tmp_path / "compared.png").read_bytes())) as image:
        assert image.width >= 800
