"""A query parameter that occurs twice is a list where the API takes one, and an error elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.test_bad_input import assert_problem


@pytest.mark.parametrize(
    "query", [[("class", "cat"), ("class", "dog")], [("class", "cat"), ("class", "3,dog")], [("class", "cat,dog")]]
)
def test_repeated_classes_are_all_generated(served: TestClient, query: list[tuple[str, str]]) -> None:
    images = served.get("/generate", params=[*query, ("n", "1"), ("seed", "1"), ("format", "json")]).json()["images"]

    classes = [image["class"] for image in images]
    assert (classes[0], classes[-1]) == ("cat", "dog")
    assert len(classes) == sum(value.count(",") + 1 for _, value in query)


def test_repeated_statuses_list_jobs_with_any_of_them(client: TestClient) -> None:
    queued, paused, cancelled = (client.post("/jobs", json={"preset": "tiny"}).json()["id"] for _ in range(3))
    client.post(f"/jobs/{paused}/pause")
    client.post(f"/jobs/{cancelled}/cancel")

    def ids(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/jobs?{query}").json()["data"]]

    assert ids("status=queued&status=cancelled") == ids("status=queued,cancelled") == [cancelled, queued]
    assert ids("status=paused&status=paused") == [paused]
    # Pages go on where the last one ended
    assert client.get("/jobs?status=queued&status=paused&limit=1").json()["has_more"]
    assert ids("status=queued&status=paused&limit=1") == [paused]
    assert ids(f"status=queued&status=paused&limit=1&after={paused}") == [queued]
    assert_problem(client.get("/jobs?status=queued&status=sleeping"), 422, "status.1", "sleeping")


def test_repeated_jobs_are_all_compared(client: TestClient) -> None:
    ids = [client.post("/jobs", json={"preset": "tiny"}).json()["id"] for _ in range(2)]

    rows = client.get("/compare", params=[("jobs", job_id) for job_id in ids]).json()["data"]

    assert [row["job"] for row in rows] == ids


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/generate?class=cat&n=1&n=2", "n", "1, 2"),
        ("/generate?class=cat&seed=1&seed=1", "seed", "1, 1"),
        ("/interpolate?from=cat&from=dog&to=frog", "from", "cat, dog"),
        ("/jobs?limit=5&limit=6", "limit", "5, 6"),
        ("/jobs/x/metrics?after=1&after=2", "after", "1, 2"),
        ("/sweeps?limit=1&after=a&limit=2", "limit", "1, 2"),
    ],
)
def test_any_other_repeated_parameter_is_refused_by_name(served: TestClient, path: str, field: str, value: Any) -> None:
    assert_problem(served.get(path), 422, field, value)


def test_every_repeated_parameter_is_named(served: TestClient) -> None:
    problems = assert_problem(served.get("/generate?class=cat&n=1&n=2&seed=3&seed=4&scale="), 422)["errors"]

    assert [problem["field"] for problem in problems] == ["n", "seed"]
    assert problems[0]["message"] == "occurs 2 times in the query; send it once"
