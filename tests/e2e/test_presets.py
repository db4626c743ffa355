"""Trains every preset through POST /jobs, with its own networks, batch size and losses, for two iterations."""

from __future__ import annotations

from typing import Any

import pytest

from shared.configs.presets import PRESETS
from tests.processes import Stack

FOR_A_GPU = ("best", "own-images-64", "own-images-128")
QUICK = ("dcgan-softmax", "bndrhl")  # ReLU and softmax; batch norm and dropout
LATER = sorted(PRESETS.keys() - set(QUICK))


def budget(name: str, iterations: int = 2) -> dict[str, Any]:
    """Overrides for a short run: two iterations, a tick after each, and no evaluation."""
    config = PRESETS[name].config
    smaller = {"batch_size": 8} if name in FOR_A_GPU else {}
    nimg = smaller.get("batch_size", config.batch_size) * config.n_critic
    return smaller | {
        "total_nimg": iterations * nimg,
        "tick_nimg": nimg,
        "snapshot_nimg": nimg,
        "eval_images": 0,
        "eval_every_nimg": None,
    }


def check(stack: Stack, job: dict[str, Any], first_nimg: int) -> None:
    """Checks that the job succeeded, that /compare has its metrics, and that its model has a preview."""
    assert (job["status"], job["error"]) == ("succeeded", None), job["preset"]
    rows = stack.http.get(f"/jobs/{job['id']}/metrics").json()["data"]
    assert [row["nimg"] for row in rows] == [first_nimg, 2 * first_nimg]
    (row,) = stack.http.get("/compare", params={"jobs": job["id"]}).json()["data"]
    for name in ("initial_loss_d", "final_loss_d", "initial_loss_g", "final_loss_g", "seconds"):
        assert isinstance(row[name], float), name
    for name in ("d_accuracy_real", "d_accuracy_fake"):
        assert 0 <= row[name] <= 1
    assert job["trained_s"] > 0
    assert stack.http.get(f"/models/{job['model_id']}/preview.png").status_code == 200


def run(stack: Stack, names: tuple[str, ...] | list[str]) -> None:
    jobs = {name: stack.submit(preset=name, dataset="colors", overrides=budget(name)) for name in names}
    for name, job_id in jobs.items():
        check(stack, stack.wait_until_over(job_id), budget(name)["tick_nimg"])


def test_two_presets_of_report_2_train_and_publish_a_model(stack: Stack) -> None:
    run(stack, QUICK)


def test_a_job_continues_from_the_checkpoint_of_another_job(stack: Stack) -> None:
    # Given a finished job, and a new job that starts from its first checkpoint
    first = stack.wait_until_over(stack.submit(preset="bndrhl", dataset="colors", overrides=budget("bndrhl")))
    start = f"{first['id']}@256"
    overrides = budget("bndrhl", iterations=3) | {"from_checkpoint": start}
    job = stack.wait_until_over(stack.submit(preset="bndrhl", dataset="colors", overrides=overrides))
    # Then the new job has the same metrics up to the end of the first job, and one more row
    assert (job["status"], job["error"]) == ("succeeded", None)
    rows, earlier = (stack.http.get(f"/jobs/{source['id']}/metrics").json()["data"] for source in (job, first))
    assert [row["nimg"] for row in rows] == [256, 512, 768]
    assert rows[:2] == earlier
    events = stack.http.get(f"/jobs/{job['id']}/events").json()["data"]
    assert f"continuing from {start} after 256 images" in [event["message"] for event in events]
    # And a checkpoint that does not exist is refused
    response = stack.http.post("/jobs", json={"preset": "bndrhl", "overrides": {"from_checkpoint": f"{first['id']}@1"}})
    assert response.status_code == 422
    assert response.json()["errors"][0]["message"].endswith("it has some at 256, 512")


@pytest.mark.smoke
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LATER)
def test_a_preset_trains_and_publishes_a_model(stack: Stack, name: str) -> None:
    """Takes about ten seconds per preset, and a minute for the largest."""
    run(stack, [name])
