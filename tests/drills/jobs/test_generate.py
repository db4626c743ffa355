"""Processes that are killed while a job generates a data set."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest

from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator
from tests.drills.harness import Kiln
from tests.drills.report import Drill

pytestmark = pytest.mark.timeout(900)

IMAGES = 8000  # eight shards


@pytest.mark.slow_drill
def test_kill_9_in_the_middle_of_a_data_set(kiln: Kiln, drill: Drill) -> None:
    """About 60 s.

    Invariant: after a kill, the job goes on with the next shard, and the archive is that of an undisturbed job, byte
    for byte. No shard that was complete is made again.
    Faults injected: SIGKILL to the generating process, later SIGKILL to the worker and its process.
    Broken by hand: services/trainer/generation/run.py: `self._position = record.position` left out -> other images
    """
    model = f"drill-{random.randrange(10**9)}"
    registry = ModelRegistry(ArtifactStore(kiln.settings().artifact_url))
    publish(registry, model, graph=make_generator(LATENT, len(CLASSES), work=3))
    undisturbed = submit(kiln, model)
    assert kiln.wait_until_over(undisturbed).status == "succeeded"

    job_id = submit(kiln, model)
    shares = sorted(random.uniform(0.2, 0.75) for _ in range(2))
    kiln.wait_until_training(job_id, shares[0])
    first_shards = shard_files(kiln, job_id)
    os.kill(kiln.worker.trainer(), signal.SIGKILL)
    kiln.wait_for_crashes(job_id, 1)
    kiln.wait_until_training(job_id, shares[1])
    kiln.worker.kill_tree()
    kiln.replace_worker()

    job = kiln.wait_until_over(job_id)
    assert (job.status, job.attempt, job.crashes, job.error) == ("succeeded", 3, 2, None)
    assert kiln.events(job_id).count("resumed") == 2
    assert first_shards.items() <= shard_files(kiln, job_id).items()
    assert description(kiln, job_id) == description(kiln, undisturbed)
    assert archive(kiln, job_id) == archive(kiln, undisturbed)
    drill.record("kill -9 in the middle of a data set", 2, detail=" and ".join(f"at {share:.0%}" for share in shares))


def submit(kiln: Kiln, model: str) -> str:
    answer = kiln.api.http.post("/jobs", json={"kind": "generate", "model": model, "n": IMAGES})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def shard_files(kiln: Kiln, job_id: str) -> dict[str, int]:
    """The complete shards, and their inodes, which change when a shard is written again."""
    folder = kiln.data / "artifacts" / "jobs" / job_id / "dataset"
    return {path.stem: path.with_suffix(".zip").stat().st_ino for path in sorted(folder.glob("shard-*.json"))}


def description(kiln: Kiln, job_id: str) -> dict[str, Any]:
    manifest: dict[str, Any] = kiln.api.http.get(f"/jobs/{job_id}/dataset").json()
    assert (manifest["images"], len(manifest["shards"])) == (IMAGES, IMAGES // 1000)
    return manifest


def archive(kiln: Kiln, job_id: str) -> bytes:
    return kiln.api.http.get(f"/jobs/{job_id}/dataset/download").content
