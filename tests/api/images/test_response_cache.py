"""Formats of /generate, several classes at once, and cached responses."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.api.images.response_cache import ImageResponse, ResponseCache, etag_matches, etag_of
from services.generator.png import COMPRESSIONS, read_provenance
from tests.api.conftest import CLASSES
from tests.api.test_bad_input import assert_problem

SEED = {"seed": 5, "n": 3}


def get_images(client: TestClient, **query: Any) -> httpx2.Response:
    answer = client.get("/generate", params=query)
    assert answer.status_code == 200, answer.text
    return answer


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        array: np.ndarray = np.asarray(image)
        return array


def array(client: TestClient, **query: Any) -> np.ndarray:
    images: np.ndarray = np.load(io.BytesIO(get_images(client, format="npy", **query).content))
    return images


def test_several_classes_have_a_row_each(served: TestClient) -> None:
    grid = pixels(get_images(served, **{"class": "cat,dog", **SEED}).content)

    assert grid.shape == (64, 96, 3)
    for row, name in enumerate(("cat", "dog")):
        alone = pixels(get_images(served, **{"class": name, "columns": 3, **SEED}).content)
        np.testing.assert_array_equal(grid[32 * row : 32 * row + 32], alone)


def test_all_is_every_class_and_a_body_may_list_classes(served: TestClient) -> None:
    everything = get_images(served, **{"class": "all", **SEED})
    listed = served.post("/generate", json={"class": [*CLASSES[:9], 9], **SEED})

    assert listed.content == everything.content
    assert pixels(everything.content).shape == (320, 96, 3)
    provenance = read_provenance(everything.content)
    assert provenance is not None
    assert provenance["class"] == list(CLASSES)


def test_a_body_gives_the_same_file_as_a_query(served: TestClient) -> None:
    query = {"class": "cat", "n": 4, "seed": 1, "truncation": 0.5, "columns": 4, "scale": 2, "compress": "fast"}

    assert served.post("/generate", json=query).content == get_images(served, **query).content


def test_first_index_skips_images(served: TestClient) -> None:
    eight = array(served, **{"class": "cat", "n": 8, "seed": 1})

    np.testing.assert_array_equal(array(served, **{"class": "cat", "n": 3, "seed": 1, "first_index": 5}), eight[5:])


def test_a_zip_holds_the_file_of_each_single_image(served: TestClient) -> None:
    answer = get_images(served, **{"class": "cat,dog", "format": "zip", "scale": 2, **SEED})

    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        listed = json.loads(archive.read("images.json"))
        assert len(archive.namelist()) == len(listed["images"]) + 1 == 7
        for row in listed["images"]:
            alone = {"class": row["class"], "first_index": row["index"], "n": 1, "seed": 5, "scale": 2}
            assert archive.read(row["file"]) == get_images(served, **alone).content
    assert (listed["seed"], listed["model"]) == (5, "first")


def test_json_holds_the_same_files_in_base64(served: TestClient) -> None:
    answer = get_images(served, **{"class": "cat", "format": "json", **SEED}).json()

    assert answer["seed"] == 5
    for index, row in enumerate(answer["images"]):
        assert (row["class"], row["index"]) == ("cat", index)
        alone = get_images(served, **{"class": "cat", "first_index": index, "n": 1, "seed": 5})
        assert base64.b64decode(row["png"]) == alone.content


def test_npy_is_the_array_of_pixels(served: TestClient) -> None:
    images = array(served, **{"class": "cat,dog", "scale": 2, **SEED})

    assert (str(images.dtype), images.shape) == ("uint8", (6, 64, 64, 3))
    grid = pixels(get_images(served, **{"class": "cat,dog", "scale": 2, **SEED}).content)
    np.testing.assert_array_equal(images[4], grid[64:, 64:128])


def test_every_compression_keeps_the_pixels(served: TestClient) -> None:
    files = [get_images(served, **{"class": "cat", "compress": compress, **SEED}).content for compress in COMPRESSIONS]

    assert len(set(files)) == len(COMPRESSIONS)
    for file in files[1:]:
        np.testing.assert_array_equal(pixels(file), pixels(files[0]))


def test_head_returns_the_headers_of_get(served: TestClient) -> None:
    get, head = (served.request(method, "/generate", params={"class": "cat", **SEED}) for method in ("GET", "HEAD"))

    assert head.status_code == 200
    assert {name: value for name, value in head.headers.items() if name != "date"} == {
        name: value for name, value in get.headers.items() if name != "date"
    }


def test_a_request_with_a_seed_is_generated_once(served: TestClient) -> None:
    query: dict[str, Any] = {"class": "cat", "seed": 99, "n": 2}
    first = get_images(served, **query)
    etag = first.headers["etag"]

    again = served.get("/generate", params=query, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert get_images(served, **query).content == first.content
    for other in ({"seed": 98}, {"n": 3}, {"class": "dog"}, {"scale": 2}, {"format": "zip"}, {"first_index": 1}):
        assert get_images(served, **query | other).headers["etag"] != etag
    assert "etag" not in get_images(served, **{"class": "cat"}).headers
    counted = served.get("/metrics").text
    assert 'kiln_answer_cache_total{result="not_modified"} 1.0' in counted
    assert 'kiln_answer_cache_total{result="hit"}' in counted


def test_only_a_request_that_names_a_model_id_is_immutable(served: TestClient) -> None:
    by_alias, by_id = (
        get_images(served, **{"class": "cat", **SEED}),
        get_images(served, **{"class": "cat", "model": "first", **SEED}),
    )

    assert by_alias.headers["etag"] == by_id.headers["etag"]
    assert by_alias.headers["cache-control"] == "private, no-cache"
    assert by_id.headers["cache-control"] == "private, max-age=31536000, immutable"


def test_the_cache_keeps_the_latest_responses_within_its_limit() -> None:
    seen: list[str] = []
    cache = ResponseCache(800, seen.append)
    names = [etag_of("cpu", number) for number in range(10)]

    cache.add(ImageResponse(b"x" * 101, "image/png", etag=etag_of("cpu", "large")))
    for name in names:
        cache.add(ImageResponse(b"x" * 100, "image/png", etag=name))

    assert cache.bytes == 800
    assert [name for name in names if name in cache._responses] == names[2:]


@pytest.mark.parametrize(("header", "matches"), [
    (None, False), ("*", True), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ('"b"', False), ("a", False),
])  # fmt: skip
def test_if_none_match_is_compared_as_in_rfc_9110(header: str | None, matches: bool) -> None:
    assert etag_matches('"a"', header) == matches


@pytest.mark.parametrize(("body", "field"), [
    ({"class": "cat", "n": 0}, "n"), ({"class": ["cat", "dragon"]}, "class"), ({"class": []}, "class"),
    ({"class": True}, "class"), ({"class": [["cat"]]}, "class"), ({"class": "x" * 201}, "class"), ({}, "class"),
    ({"class": 10}, "class"), ({"class": "all", "n": 103}, "n"), ({"class": "cat", "format": "gif"}, "format"),
    ({"class": "cat", "colour": 1}, "colour"), ({"class": "cat", "first_index": -1}, "first_index"),
    ({"class": "cat", "n": 1, "columns": 1024, "scale": 16}, "scale"), ({"class": "cat", "seed": 2**63}, "seed"),
])  # fmt: skip
def test_an_invalid_body_names_its_field(body: dict[str, Any], field: str, served: TestClient) -> None:
    problem = assert_problem(served.post("/generate", json=body), 422)

    assert [error["field"] for error in problem["errors"]] == [field]


def test_metrics_show_where_the_time_goes(served: TestClient) -> None:
    get_images(served, **{"class": "cat", "n": 7})
    assert served.get("/generate", params={"class": "dragon"}).status_code == 422
    metrics = served.get("/metrics")

    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = '{model="first",provider='
    for name in ("queue_seconds_sum", "compute_seconds_sum", "encode_seconds_sum", "batch_images_sum", "images_total"):
        assert f"kiln_{name}{labels}" in metrics.text
    assert 'kiln_rejected_total{reason="invalid_input"}' in metrics.text
    assert 'kiln_waiting_images{model="first"} 0.0' in metrics.text
