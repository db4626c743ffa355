"""Clients leave the default data set to the API, which takes it from the checkpoint that a job continues."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from kiln import AsyncKiln, Kiln
from shared.configs.presets import resolve
from shared.jobs.record import new_job
from shared.jobs.store import RedisJobStore
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from tests.kiln.command import Run

SPACE = {"lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}}


@pytest.fixture
def checkpoint(store: RedisJobStore, shared_settings: Settings) -> str:
    """Id of a job on the data set `insects` with a checkpoint."""
    make = partial(new_job, preset="tiny", config=resolve("tiny", {}), dataset="insects", name=None)
    job, _ = store.create(make)
    ArtifactStore(shared_settings.artifact_url).write(f"jobs/{job.id}/checkpoints/0001-000000002000.ckpt", b"")
    return job.id


def test_a_job_of_the_python_client_continues_on_the_data_set_of_its_checkpoint(url: str, checkpoint: str) -> None:
    overrides = {"from_checkpoint": checkpoint}

    async def create() -> str:
        async with AsyncKiln(url) as kiln:
            return (await kiln.jobs.create("tiny", overrides)).dataset

    with Kiln(url) as kiln:
        assert kiln.jobs.create("tiny", overrides).dataset == "insects"
        assert kiln.jobs.dry_run("tiny", overrides)["dataset"] == "insects"
        assert kiln.jobs.dry_run("tiny", overrides, dataset="flowers")["dataset"] == "flowers"
        assert kiln.jobs.dry_run("tiny")["dataset"] == "cifar10"
        sweep = kiln.sweeps.create("tiny", SPACE, "loss_g", overrides=overrides, n_trials=1)
        assert sweep.dataset == "insects"
    assert asyncio.run(create()) == "insects"


def test_a_job_of_the_command_line_continues_on_the_data_set_of_its_checkpoint(command: Run, checkpoint: str) -> None:
    option = ("-o", f"from_checkpoint={checkpoint}")

    train = command("train", "--dry-run", "--json", *option)
    sweep = command("sweep", "--dry-run", "--json", "-s", "lr=1e-5..1e-3,log", "-m", "loss_g", *option)
    other = command("train", "--dry-run", "--json", "--dataset", "flowers", *option)

    assert json.loads(train.stdout)["dataset"] == "insects"
    assert json.loads(sweep.stdout)["plan"]["dataset"] == "insects"
    assert json.loads(other.stdout)["dataset"] == "flowers"
