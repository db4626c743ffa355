"""Sweeps over HTTP: accepted and refused requests, and responses. test_runner.py runs whole sweeps."""

from __future__ import annotations

import asyncio
import io
from functools import partial
from typing import Any

import optuna
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api.state import AppState
from shared.jobs import transitions
from shared.jobs.record import JobStatus
from shared.storage.model_registry import ModelRegistry
from shared.sweeps.record import SweepStatus
from tests.api.conftest import publish
from tests.api.test_bad_input import assert_problem

BODY: dict[str, Any] = {
    "preset": "tiny",
    "space": {"lr": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}},
    "objective": {"metric": "loss_g", "direction": "minimize"},
    "n_trials": 2,
}


def state_of(client: TestClient) -> AppState:
    state: AppState = client.app.state.kiln  # type: ignore[attr-defined]
    return state


def train(state: AppState, sweep_id: str, model_id: str | None = None) -> None:
    """Acts as a worker for all trials until the sweep is over."""
    while (sweep := state.sweeps.get(sweep_id)).status is SweepStatus.RUNNING:
        for job in state.store.waiting(9):
            claimed = state.store.update(job.id, partial(transitions.claim, worker="w", lease_s=60))
            end = partial(transitions.finish, fence=claimed.fence, status=JobStatus.SUCCEEDED, model_id=model_id)
            state.store.update(job.id, end, [{"nimg": 100.0, "loss_g": job.gan_config.lr}])
        state.sweep_runner.advance(sweep)


def test_the_first_trial_of_a_submitted_sweep_is_a_job(client: TestClient) -> None:
    answer = client.post("/sweeps", json=BODY | {"name": "mine", "overrides": {"batch_size": 16}})

    assert answer.status_code == 202
    sweep = answer.json()
    assert answer.headers["location"] == sweep["links"]["self"] == f"/sweeps/{sweep['id']}"
    assert (sweep["status"], sweep["counts"]["running"], sweep["best"]) == ("running", 1, None)
    job = client.get(f"/jobs/{sweep['trials'][0]['job_id']}").json()
    assert job["sweep"] == {"id": sweep["id"], "trial": 0}
    assert job["links"]["sweep"] == f"/sweeps/{sweep['id']}"
    assert (job["config"]["lr"], job["config"]["batch_size"]) == (sweep["trials"][0]["params"]["lr"], 16)


def test_a_dry_run_validates_the_request_and_starts_nothing(client: TestClient) -> None:
    answer = client.post("/sweeps?dry_run=true", json=BODY)

    assert answer.status_code == 200
    assert answer.json()["config"]["lr"] == 1e-5
    assert client.get("/sweeps").json() == {"data": [], "has_more": False}
    assert client.get("/jobs").json()["data"] == []


def test_one_idempotency_key_creates_one_sweep(client: TestClient) -> None:
    first, again = (client.post("/sweeps", json=BODY, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.json()["id"] == again.json()["id"]
    assert len(client.get("/sweeps").json()["data"]) == 1
    other = client.post("/sweeps", json=BODY | {"n_trials": 3}, headers={"Idempotency-Key": "k"})
    assert_problem(other, 422)
    # Keys of jobs and of sweeps are separate
    assert client.post("/jobs", json={"preset": "tiny"}, headers={"Idempotency-Key": "k"}).status_code == 202


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"preset": "stylegan"}, "preset", "stylegan"),
        ({"space": {}}, "space", "{}"),
        ({"space": {"lr": {"type": "float", "low": 1e-5, "high": 7.0}}}, "space.lr.high", 7.0),
        ({"space": {"lr": {"type": "float", "low": "1e-5", "high": 1e-3}}}, "space.lr.low", "1e-5"),
        ({"space": {"lr": {"type": "normal"}}}, "space.lr", "{'type': 'normal'}"),
        ({"space": {"lr": 1e-4}}, "space.lr", 1e-4),
        ({"space": {"momentum": {"type": "float", "low": 0.1, "high": 0.9}}}, "space.momentum", "float"),
        ({"objective": {"metric": "FID", "direction": "minimize"}}, "objective.metric", "FID"),
        ({"objective": {"metric": "fid", "direction": "minimize"}}, "objective.metric", "fid"),
        ({"objective": {"metric": "loss_g", "direction": "down"}}, "objective.direction", "down"),
        ({"overrides": {"lr": 1e-4}}, "space.lr", "float"),
        ({"overrides": {"batch_size": "64"}}, "overrides.batch_size", "64"),
        ({"n_trials": 0}, "n_trials", 0),
        ({"n_trials": 10**6}, "n_trials", 10**6),
        ({"parallelism": 0}, "parallelism", 0),
        ({"seed": -1}, "seed", -1),
        ({"dataset": "../etc"}, "dataset", "../etc"),
        ({"trials": 5}, "trials", 5),
    ],
)
def test_an_invalid_sweep_is_refused_by_field(client: TestClient, change: Any, field: str, value: Any) -> None:
    assert_problem(client.post("/sweeps", json=BODY | change), 422, field, value)
    assert client.get("/sweeps").json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/history.png"), ("GET", "/importances.png"), ("POST", "/cancel"), ("POST", "/promote")],
)
def test_an_unknown_sweep_is_a_404(client: TestClient, method: str, path: str) -> None:
    assert_problem(client.request(method, f"/sweeps/nothing{path}"), 404)


def test_a_sweep_is_shown_with_its_trials_and_plots(client: TestClient) -> None:
    sweep_id = client.post("/sweeps", json=BODY).json()["id"]
    plots = [f"/sweeps/{sweep_id}/{name}.png" for name in ("history", "importances")]
    before = [client.get(path) for path in plots]

    train(state_of(client), sweep_id)

    sweep = client.get(f"/sweeps/{sweep_id}").json()
    assert (sweep["status"], sweep["counts"]["complete"]) == ("succeeded", 2)
    assert sweep["best"]["value"] == min(trial["params"]["lr"] for trial in sweep["trials"])
    (listed,) = client.get("/sweeps").json()["data"]
    assert listed == {name: value for name, value in sweep.items() if name != "trials"}
    for path, earlier in zip(plots, before, strict=True):
        drawn = client.get(path)
        assert drawn.headers["content-type"] == "image/png"
        assert drawn.content != earlier.content
        with Image.open(io.BytesIO(drawn.content)) as image:
            assert image.width == 800


def test_optuna_does_not_block_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    in_event_loop: list[bool] = []
    create = optuna.create_study

    def recording(*args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
            in_event_loop.append(True)
        except RuntimeError:
            in_event_loop.append(False)
        return create(*args, **kwargs)

    monkeypatch.setattr(optuna, "create_study", recording)
    sweep_id = client.post("/sweeps", json=BODY | {"pruning": True}).json()["id"]
    train(state_of(client), sweep_id)
    assert client.get(f"/sweeps/{sweep_id}/importances.png").status_code == 200
    assert client.post("/sweeps", json=BODY).status_code == 202

    assert len(in_event_loop) >= 4
    assert not any(in_event_loop)


def test_cancelling_a_sweep_cancels_its_waiting_jobs(client: TestClient) -> None:
    sweep = client.post("/sweeps", json=BODY).json()

    cancelled = client.post(f"/sweeps/{sweep['id']}/cancel")

    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert client.post(f"/sweeps/{sweep['id']}/cancel").json() == cancelled.json()
    assert client.get(f"/jobs/{sweep['trials'][0]['job_id']}").json()["status"] == "cancelled"


def test_the_best_model_of_a_sweep_is_promoted(serving: TestClient, registry: ModelRegistry) -> None:
    publish(registry, "best")
    sweep_id = serving.post("/sweeps", json=BODY).json()["id"]
    assert_problem(serving.post(f"/sweeps/{sweep_id}/promote"), 409)

    train(state_of(serving), sweep_id, model_id="best")
    promoted = serving.post(f"/sweeps/{sweep_id}/promote", json={"alias": "tuned"})

    assert (promoted.status_code, promoted.json()) == (200, {"alias": "tuned", "model_id": "best"})
    assert serving.get("/generate?class=cat&model=tuned").headers["x-kiln-model"] == "best"
    assert serving.post(f"/sweeps/{sweep_id}/promote").json()["alias"] == "default"
    assert_problem(serving.post(f"/sweeps/{sweep_id}/promote", json={"alias": "../x"}), 422, "alias", "../x")
