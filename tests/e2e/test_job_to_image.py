"""From a job to images through real processes: HTTP, Redis, Celery, torch, ONNX, onnxruntime, PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.processes import Stack, running_stack, small_overrides, wait_for


def test_a_job_on_cifar10_ends_in_images_of_cats(cifar10_root: Path, tmp_path: Path) -> None:
    # Given a new stack with the real CIFAR-10
    with running_stack(tmp_path / "data", cifar10_root) as stack:
        assert stack.http.get("/generate", params={"class": "cat"}).status_code == 503
        assert stack.http.get("/readyz").status_code == 503

        # When a small job is trained
        job_id = stack.submit(preset="tiny", overrides={"total_nimg": 3200, "tick_nimg": 800, "checkpoint_every_s": 2})
        running = stack.wait_for_job(job_id, lambda job: job["progress"]["images_seen"] > 0)
        assert running["progress"]["images_total"] == 3200
        job = stack.wait_until_over(job_id)

        # Then it has succeeded with a metrics series, and its model is served without a restart
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert job["progress"]["fraction"] == 1.0
        series = stack.http.get(f"/jobs/{job_id}/metrics").json()["data"]
        assert [row["nimg"] for row in series] == [800, 1600, 2400, 3200]
        for row in series:
            assert set(row) == {"nimg", "loss_d", "loss_g", "d_accuracy_real", "d_accuracy_fake", "lr"}
        stack.wait_for_job(job_id, lambda _: stack.http.get("/readyz").status_code == 200)
        response = stack.http.get("/generate", params={"class": "cat", "n": 16})
        assert response.status_code == 200
        assert response.headers["x-kiln-model"] == job["model_id"]
        with Image.open(io.BytesIO(response.content)) as grid:
            assert (grid.format, grid.size, grid.mode) == ("PNG", (128, 128), "RGB")
        folder = stack.data / "artifacts" / "jobs" / job_id
        assert [path.name for path in sorted((folder / "weights").iterdir())] == ["000000003200.safetensors"]
        assert [path.name for path in sorted((folder / "samples").iterdir())] == [
            "000000000000.png",
            "000000003200.png",
        ]
        manifest = stack.http.get(f"/models/{job['model_id']}").json()["manifest"]
        assert manifest["images_seen"] == 3200
        assert manifest["parity"]["max_abs_difference"] <= 1e-4
        assert manifest["classes"][3] == "cat"


def test_a_model_trained_on_a_folder_of_classes_generates_those_classes(stack: Stack) -> None:
    # Given a data set of two colours, and enough training to learn two colours
    overrides = small_overrides(
        total_nimg=24_000, lr=2e-3, tick_nimg=8_000, snapshot_nimg=24_000, ema_halflife_nimg=500
    )

    # When both classes are generated, one by name and one by number
    job = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=overrides))
    assert job["status"] == "succeeded", job["error"]
    red = generate(stack, job["model_id"], "red")
    blue = generate(stack, job["model_id"], "0")

    # Then red images are red and blue images are blue
    assert red[:, :, 0].mean() > red[:, :, 2].mean() + 40
    assert blue[:, :, 2].mean() > blue[:, :, 0].mean() + 40


def test_an_unconditional_model_refuses_a_class_that_the_classifier_does_not_know(stack: Stack) -> None:
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
    assert "the classifier has 'airplane'" in error["message"]


def test_the_default_alias_moves_on_request_only(stack: Stack) -> None:
    # Given a first model, which becomes `default` automatically
    first = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=small_overrides()))
    # The API loads it without a request
    ready = wait_for(lambda: stack.http.get("/readyz"), lambda response: response.status_code == 200)
    default = ready.json()["model_id"]

    # When a second model is trained, the alias stays; when it is promoted, the alias moves at once
    second = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=small_overrides(seed=1)))
    assert first["status"] == second["status"] == "succeeded"
    assert stack.http.get("/readyz").json()["model_id"] == default
    assert stack.http.put("/aliases/default", json={"model_id": second["model_id"]}).status_code == 200
    response = stack.http.get("/generate", params={"class": "red"})
    assert response.headers["x-kiln-model"] == second["model_id"]

    # And an alias cannot point at a model that does not exist
    assert stack.http.put("/aliases/default", json={"model_id": "missing"}).status_code == 404


def test_a_job_on_an_unknown_data_set_is_refused_by_name(stack: Stack) -> None:
    response = stack.http.post("/jobs", json={"preset": "tiny", "dataset": "nowhere"})

    assert response.status_code == 422
    (problem,) = response.json()["errors"]
    assert (problem["field"], problem["value"]) == ("dataset", "nowhere")


def test_a_job_that_diverges_fails_with_that_reason(stack: Stack) -> None:
    # Adam without a second moment takes steps of any size as soon as a gradient vanishes
    reckless = {"architecture": "resnet", "g_channels": [8, 8, 8, 8], "lr": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.0}
    overrides = small_overrides(total_nimg=16_000, **reckless)
    job = stack.wait_until_over(stack.submit(preset="tiny", dataset="colors", overrides=overrides))

    assert (job["status"], job["reason"]) == ("failed", "diverged")
    assert "loss" in job["error"]


def test_a_running_job_can_be_cancelled_paused_resumed_and_finished(stack: Stack) -> None:
    endless = small_overrides(total_nimg=10**9)
    trains = lambda job: job["progress"]["images_seen"] > 0  # noqa: E731

    # A cancelled job ends without a model
    job_id = stack.submit(preset="tiny", dataset="colors", overrides=endless)
    stack.wait_for_job(job_id, trains)
    assert stack.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    cancelled = stack.wait_until_over(job_id)
    assert (cancelled["status"], cancelled["reason"], cancelled["model_id"]) == ("cancelled", "cancelled_by_user", None)
    assert stack.http.post(f"/jobs/{job_id}/cancel").status_code == 202  # cancelling again changes nothing

    # A paused job has a checkpoint; resumed, it continues from it; finished, it publishes a model
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
    response = stack.http.get("/generate", params={"model": model_id, "class": label, "n": 16, "seed": 1})
    assert response.status_code == 200, response.text
    with Image.open(io.BytesIO(response.content)) as grid:
        return np.asarray(grid).astype(float)
