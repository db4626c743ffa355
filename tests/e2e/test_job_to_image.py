"""The whole way through real processes: HTTP, Redis, Celery, torch, ONNX, onnxruntime, PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.processes import Stack, running_stack, small_overrides, wait_for, write_color_dataset


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose data sets are two colours, and CIFAR-10 where there is one."""
    folder = tmp_path_factory.mktemp("e2e")
    write_color_dataset(folder / "datasets")
    with running_stack(folder / "data", folder / "datasets") as stack:
        yield stack


def test_a_job_on_real_cifar10_becomes_images_of_cats(cifar10_root: Path, tmp_path: Path) -> None:
    # Given a fresh stack on the real data set
    with running_stack(tmp_path / "data", cifar10_root) as stack:
        assert stack.http.get("/generate", params={"class": "cat"}).status_code == 503
        assert stack.http.get("/readyz").status_code == 503

        # When a small job runs to its end
        job_id = stack.submit(preset="tiny", overrides={"total_nimg": 3200, "tick_nimg": 800, "checkpoint_every_s": 2})
        running = stack.wait_for_job(job_id, lambda job: job["progress"]["images_seen"] > 0)
        assert running["progress"]["images_total"] == 3200
        job = stack.wait_until_over(job_id)

        # Then it succeeded, said how it went while it ran, and is served without a restart
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert job["progress"]["fraction"] == 1.0
        series = stack.http.get(f"/jobs/{job_id}/metrics").json()["data"]
        assert [row["nimg"] for row in series] == [800, 1600, 2400, 3200]
        for row in series:
            assert set(row) == {"nimg", "loss_d", "loss_g", "d_accuracy_real", "d_accuracy_fake", "lr"}
        stack.wait_for_job(job_id, lambda _: stack.http.get("/readyz").status_code == 200)
        answer = stack.http.get("/generate", params={"class": "cat", "n": 16})
        assert answer.status_code == 200
        assert answer.headers["x-kiln-model"] == job["model_id"]
        with Image.open(io.BytesIO(answer.content)) as sheet:
            assert (sheet.format, sheet.size, sheet.mode) == ("PNG", (128, 128), "RGB")
        kept = stack.data / "artifacts" / "jobs" / job_id
        assert [path.name for path in sorted((kept / "weights").iterdir())] == ["000000003200.safetensors"]
        assert [path.name for path in sorted((kept / "samples").iterdir())] == ["000000000000.png", "000000003200.png"]
        manifest = stack.http.get(f"/models/{job['model_id']}").json()["manifest"]
        assert manifest["images_seen"] == 3200
        assert manifest["parity"]["max_abs_difference"] <= 1e-4
        assert manifest["classes"][3] == "cat"


def test_a_folder_of_classes_trains_a_model_that_knows_them(stack: Stack) -> None:
    # Given a data set of two colours, and enough training to learn two colours
    overrides = small_overrides(
        total_nimg=24_000, lr=2e-3, tick_nimg=8_000, snapshot_nimg=24_000, ema_halflife_nimg=500
    )

    # When it is trained and asked for both classes, by name and by number
    job = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=overrides))
    assert job["status"] == "succeeded", job["error"]
    red = generate(stack, job["model_id"], "red")
    blue = generate(stack, job["model_id"], "0")

    # Then red is redder than blue, and the other way round
    assert red[:, :, 0].mean() > red[:, :, 2].mean() + 40
    assert blue[:, :, 2].mean() > blue[:, :, 0].mean() + 40


def test_an_unconditional_model_takes_no_class_that_the_classifier_does_not_know(stack: Stack) -> None:
    overrides = {"g_channels": [16, 8, 8], "d_channels": [8, 8, 16], "latent_dim": 8, "batch_size": 16, "n_critic": 2,
                 "total_nimg": 320, "eval_images": 0}  # fmt: skip
    job = stack.wait_until_over(stack.submit(preset="wgan-gp", dataset="colors", overrides=overrides))
    assert job["status"] == "succeeded", job["error"]
    assert "gradient_penalty" in job["metrics"]

    assert stack.http.get("/generate", params={"model": job["model_id"]}).status_code == 200
    refused = stack.http.get("/generate", params={"model": job["model_id"], "class": "red"})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["field"], error["value"]) == ("class", "red")
    assert "the classifier knows airplane" in error["message"]


def test_the_default_alias_stays_until_it_is_told_to_move(stack: Stack) -> None:
    # Given a model that became `default` because it was the first
    first = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=small_overrides()))
    ready = wait_for(lambda: stack.http.get("/readyz"), lambda answer: answer.status_code == 200)  # it loads by itself
    default = ready.json()["model_id"]

    # When another one is trained, nothing moves; when told, it moves at once
    second = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=small_overrides(seed=1)))
    assert first["status"] == second["status"] == "succeeded"
    assert stack.http.get("/readyz").json()["model_id"] == default
    assert stack.http.put("/aliases/default", json={"model_id": second["model_id"]}).status_code == 200
    answer = stack.http.get("/generate", params={"class": "red"})
    assert answer.headers["x-kiln-model"] == second["model_id"]

    # And an alias cannot be pointed at nothing
    assert stack.http.put("/aliases/default", json={"model_id": "nothing"}).status_code == 404


def test_a_job_whose_data_set_is_missing_fails_and_says_so(stack: Stack) -> None:
    job = stack.wait_until_over(stack.submit(preset="tiny", dataset="nowhere"))

    assert (job["status"], job["reason"]) == ("failed", "bad_config")
    assert "nowhere" in job["error"]


def test_a_job_that_diverges_fails_and_says_so(stack: Stack) -> None:
    # Adam without a second moment takes steps of any size as soon as a gradient vanishes
    reckless = {"architecture": "resnet", "g_channels": [8, 8, 8, 8], "lr": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.0}
    overrides = small_overrides(total_nimg=16_000, **reckless)
    job = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=overrides))

    assert (job["status"], job["reason"]) == ("failed", "diverged")
    assert "loss" in job["error"]


def test_a_running_job_can_be_cancelled_paused_resumed_and_finished(stack: Stack) -> None:
    endless = small_overrides(total_nimg=10**9)
    trains = lambda job: job["progress"]["images_seen"] > 0  # noqa: E731

    # Cancelled, it ends without a model
    job_id = stack.submit(preset="tiny", dataset="colors", overrides=endless)
    stack.wait_for_job(job_id, trains)
    assert stack.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    cancelled = stack.wait_until_over(job_id)
    assert (cancelled["status"], cancelled["reason"], cancelled["model_id"]) == ("cancelled", "cancelled_by_user", None)
    assert stack.http.post(f"/jobs/{job_id}/cancel").status_code == 202  # and again, which changes nothing

    # Paused, it leaves a checkpoint; resumed, it goes on from there; finished, it keeps the model so far
    job_id = stack.submit(preset="tiny", dataset="colors", overrides=endless)
    stack.wait_for_job(job_id, trains)
    stack.http.post(f"/jobs/{job_id}/pause")
    paused = stack.wait_for_job(job_id, lambda job: job["status"] == "paused")
    assert list((stack.data / "artifacts" / "jobs" / job_id / "checkpoints").iterdir())
    stack.http.post(f"/jobs/{job_id}/resume")
    stack.wait_for_job(job_id, lambda job: job["progress"]["images_seen"] > paused["progress"]["images_seen"])
    stack.http.post(f"/jobs/{job_id}/finish")
    finished = stack.wait_until_over(job_id)
    assert finished["status"] == "succeeded"
    assert finished["attempt"] == 2
    assert 0 < finished["progress"]["fraction"] < 1


def generate(stack: Stack, model_id: str, label: str) -> np.ndarray:
    """[H, W, 3]"""
    answer = stack.http.get("/generate", params={"model": model_id, "class": label, "n": 16, "seed": 1})
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as sheet:
        return np.asarray(sheet).astype(float)
