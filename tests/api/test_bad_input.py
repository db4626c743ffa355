"""Invalid requests get a problem document that names the field and the value, never a 5xx, and create no job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

JSON = {"content-type": "application/json"}


def assert_problem(answer: Any, status: int, field: str | None = None, value: Any = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    if field is not None:
        problems = {problem["field"]: problem["value"] for problem in body["errors"]}
        assert field in problems, body
        assert problems[field] == value
    return body


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ('{"preset": "stylegan"}', "preset", "stylegan"),
        ('{"preset": 7}', "preset", 7),
        ('{"preset": ""}', "preset", ""),
        ("{}", "preset", None),
        ('{"preset": "tiny", "colour": "red"}', "colour", "red"),
        ('{"preset": "tiny", "overrides": {"learning": 1}}', "overrides.learning", 1),
        ('{"preset": "tiny", "overrides": {"lr": "fast"}}', "overrides.lr", "fast"),
        ('{"preset": "tiny", "overrides": {"lr": -0.1}}', "overrides.lr", -0.1),
        ('{"preset": "tiny", "overrides": {"lr": NaN}}', "overrides.lr", "nan"),
        ('{"preset": "tiny", "overrides": {"lr": Infinity}}', "overrides.lr", "inf"),
        ('{"preset": "tiny", "overrides": {"lr": 1e999}}', "overrides.lr", "inf"),
        ('{"preset": "tiny", "overrides": {"lr": true}}', "overrides.lr", True),
        ('{"preset": "tiny", "overrides": {"batch_size": "64"}}', "overrides.batch_size", "64"),
        ('{"preset": "tiny", "overrides": {"batch_size": 64.5}}', "overrides.batch_size", 64.5),
        ('{"preset": "tiny", "overrides": {"batch_size": 0}}', "overrides.batch_size", 0),
        ('{"preset": "tiny", "overrides": {"total_nimg": -5}}', "overrides.total_nimg", -5),
        ('{"preset": "tiny", "overrides": {"flip": "yes"}}', "overrides.flip", "yes"),
        ('{"preset": "tiny", "overrides": {"loss": "lsgan"}}', "overrides.loss", "lsgan"),
        ('{"preset": "tiny", "overrides": {"g_channels": [1]}}', "overrides.g_channels", "[1]"),
        ('{"preset": "tiny", "overrides": [1]}', "overrides", "[1]"),
        ('{"preset": "tiny", "dataset": "../../etc"}', "dataset", "../../etc"),
        ('{"preset": "tiny", "dataset": ""}', "dataset", ""),
        ('{"preset": "tiny", "name": 5}', "name", 5),
        ("[]", "body", "[]"),
        ("null", "body", None),
        ("{", "body", None),
        ("", "body", None),
    ],
)
def test_an_invalid_job_is_refused_and_not_created(client: TestClient, body: str, field: str, value: Any) -> None:
    answer = client.post("/jobs", content=body, headers=JSON)

    problem = assert_problem(answer, 422)
    problems = {p["field"]: p["value"] for p in problem["errors"]}
    assert field in problems, problem
    if body not in ("{", ""):
        assert problems[field] == value
    assert client.get("/jobs").json() == {"data": [], "has_more": False}


def test_all_invalid_fields_are_named_at_once(client: TestClient) -> None:
    overrides = {"lr": -1, "batch_size": "many", "momentum": 0.9}
    body = assert_problem(client.post("/jobs", json={"preset": "tiny", "overrides": overrides}), 422)

    assert {p["field"] for p in body["errors"]} == {"overrides.lr", "overrides.batch_size", "overrides.momentum"}


def test_the_error_for_an_unknown_preset_lists_the_presets(client: TestClient) -> None:
    body = assert_problem(client.post("/jobs", json={"preset": "wgan"}), 422, "preset", "wgan")

    assert "wgan-gp-conditional" in body["errors"][0]["message"]
    assert "did you mean 'wgan-gp'" in body["errors"][0]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_ten_megabytes_is_refused(client: TestClient, chunked: bool) -> None:
    data = b'{"preset": "' + b"x" * 10_000_000 + b'"}'
    parts = (data[i : i + 65_536] for i in range(0, len(data), 65_536))

    answer = client.post("/jobs", content=parts if chunked else data, headers=JSON)

    assert "1,048,576" in assert_problem(answer, 413)["detail"]
    assert client.get("/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ({"class": "dragon"}, "class", "dragon"),
        ({"class": "10"}, "class", "10"),
        ({"class": "-1"}, "class", "-1"),
        ({"class": "٣"}, "class", "٣"),
        ({}, "class", None),
        ({"class": "cat", "n": 0}, "n", "0"),
        ({"class": "cat", "n": -1}, "n", "-1"),
        ({"class": "cat", "n": 1025}, "n", "1025"),
        ({"class": "cat", "n": 10**9}, "n", str(10**9)),
        ({"class": "cat", "n": "many"}, "n", "many"),
        ({"class": "cat", "n": "1e2"}, "n", "1e2"),
        ({"class": "cat", "seed": -1}, "seed", "-1"),
        ({"class": "cat", "seed": 2**63}, "seed", str(2**63)),
        ({"class": "cat", "truncation": "nan"}, "truncation", "nan"),
        ({"class": "cat", "truncation": 0}, "truncation", "0"),
        ({"class": "cat", "format": "gif"}, "format", "gif"),
        ({"class": "cat", "columns": 0}, "columns", "0"),
        ({"class": "cat", "scale": 17}, "scale", "17"),
        ({"class": "cat", "n": 1024, "scale": 16}, "scale", 16),
        ({"class": "cat", "size": 64}, "size", "64"),
    ],
)
def test_an_invalid_image_request_is_refused(
    serving: TestClient, query: dict[str, Any], field: str, value: Any
) -> None:
    assert_problem(serving.get("/generate", params=query), 422, field, value)


def test_the_error_for_an_unknown_class_lists_the_classes(serving: TestClient) -> None:
    body = assert_problem(serving.get("/generate", params={"class": "dragon"}), 422)

    names = "'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'"
    assert names in body["errors"][0]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/jobs/20261121-213455-9c4d1f7a", 404),
        ("GET", "/jobs/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/jobs/nope/metrics", 404),
        ("POST", "/jobs/nope/cancel", 404),
        ("GET", "/models/nope", 404),
        ("GET", "/models/..%2f..%2fetc", 404),
        ("GET", "/presets/nope", 404),
        ("GET", "/generate?class=cat&model=nope", 404),
        ("GET", "/generate?class=cat&model=..%2F..%2Fetc", 404),
        ("GET", "/nothing/here", 404),
        ("DELETE", "/jobs", 405),
        ("PUT", "/generate", 405),
        ("GET", "/jobs?status=sleeping", 422),
        ("GET", "/jobs?limit=0", 422),
        ("GET", "/jobs?limit=1000", 422),
        ("GET", "/jobs?page=2", 422),
    ],
)
def test_unknown_paths_methods_and_values_get_a_problem_document(
    client: TestClient, method: str, path: str, status: int
) -> None:
    assert_problem(client.request(method, path), status)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=12), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["", "preset", "overrides", "dataset", "name", "overrides.lr", "overrides.g_channels"]),
)
def test_arbitrary_json_gets_a_problem_document_or_a_dry_run(client: TestClient, value: Any, place: str) -> None:
    """Any JSON value, lone surrogates and NaN included, at any place of the body."""
    body: Any = {"preset": "tiny"}
    if place.startswith("overrides."):
        body["overrides"] = {place.partition(".")[2]: value}
    elif place:
        body[place] = value
    else:
        body = value

    answer = client.post("/jobs?dry_run=true", content=json.dumps(body), headers=JSON)

    assert answer.status_code == 200 or assert_problem(answer, 422)["errors"]
