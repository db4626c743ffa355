"""GET /generate returns the requested images, and the same ones for the same seed."""

from __future__ import annotations

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.generator.png import read_provenance
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, publish


def get(client: TestClient, **query: Any) -> bytes:
    answer = client.get("/generate", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return answer.content


def tiles(png: bytes, count: int) -> list[np.ndarray]:
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image)
    across = pixels.shape[1] // 32
    return [pixels[i // across * 32 :, i % across * 32 :][:32, :32] for i in range(count)]


def test_sixteen_images_are_a_png_of_128_by_128(serving: TestClient) -> None:
    answer = serving.get("/generate", params={"class": "cat", "n": 16})

    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (128, 128))
    assert answer.headers["x-kiln-model"] == "first"
    assert int(answer.headers["x-kiln-seed"]) >= 0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(serving: TestClient) -> None:
    first = get(serving, **{"class": "cat", "n": 9, "seed": 5})

    assert get(serving, **{"class": "cat", "n": 9, "seed": 5}) == first
    assert get(serving, **{"class": "cat", "n": 9, "seed": 6}) != first


def test_a_drawn_seed_is_reported_and_reproduces_the_image(serving: TestClient) -> None:
    drawn = serving.get("/generate", params={"class": "dog", "n": 4})

    assert get(serving, **{"class": "dog", "n": 4, "seed": drawn.headers["x-kiln-seed"]}) == drawn.content


def test_a_smaller_n_gives_the_first_images_of_a_larger_n_in_any_layout(serving: TestClient) -> None:
    sixteen = tiles(get(serving, **{"class": "cat", "n": 16, "seed": 1}), 16)

    for n, columns in ((1, 1), (4, 2), (4, 4), (15, 5)):
        some = tiles(get(serving, **{"class": "cat", "n": n, "seed": 1, "columns": columns}), n)
        for one, other in zip(some, sixteen, strict=False):
            np.testing.assert_array_equal(one, other)


def test_concurrent_requests_do_not_change_an_image(serving: TestClient) -> None:
    queries = [{"class": CLASSES[i % 10], "n": 1 + i % 7, "seed": i} for i in range(40)]
    alone = [get(serving, **query) for query in queries]

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda query: get(serving, **query), queries))

    assert together == alone


def test_a_class_is_selected_by_name_or_number(serving: TestClient) -> None:
    by_name = get(serving, **{"class": "cat", "seed": 1})

    assert get(serving, **{"class": "3", "seed": 1}) == by_name
    assert get(serving, **{"class": "dog", "seed": 1}) != by_name


def test_the_png_carries_its_provenance(serving: TestClient, registry: ModelRegistry) -> None:
    provenance = read_provenance(get(serving, **{"class": "cat", "n": 4, "seed": 77, "truncation": 0.5}))

    assert provenance is not None
    assert provenance["digest"] == registry.get("first").digest
    expected = {"model": "first", "class": "cat", "seed": 77, "first_index": 0, "n": 4, "truncation": 0.5}
    assert provenance.items() >= expected.items()


def test_1024_images_are_a_png_of_1024_by_1024(serving: TestClient) -> None:
    with Image.open(io.BytesIO(get(serving, **{"class": "cat", "n": 1024}))) as image:
        assert image.size == (1024, 1024)


def test_a_model_is_selected_by_alias_or_id(serving: TestClient, registry: ModelRegistry) -> None:
    publish(registry, "second")
    registry.set_alias("candidate", "second")

    second = get(serving, **{"class": "cat", "seed": 1, "model": "second"})
    assert second != get(serving, **{"class": "cat", "seed": 1})
    assert get(serving, **{"class": "cat", "seed": 1, "model": "candidate"}) == second
    assert get(serving, **{"class": "cat", "seed": 1, "model": "default"}) == get(
        serving, **{"class": "cat", "seed": 1}
    )


def test_without_a_model_the_error_is_503_and_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/generate", params={"class": "cat"})

    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "POST /jobs" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/openapi.json"])
def test_paths_that_need_no_model_work_without_one(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(("form", "media_type"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_grid_can_be_a_smaller_lossy_file(form: str, media_type: str, serving: TestClient) -> None:
    query: dict[str, Any] = {"class": "cat", "n": 9, "seed": 5}
    answer = serving.get("/generate", params=query | {"format": form, "quality": 80})

    assert answer.headers["content-type"] == media_type
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == (form.upper(), (96, 96))
    assert len(answer.content) < len(get(serving, **query))
    assert serving.get("/generate", params=query | {"format": form, "quality": 80}).content == answer.content
    assert serving.get("/generate", params=query | {"format": form, "quality": 10}).content != answer.content


def test_each_file_of_a_zip_can_be_lossy_and_equals_a_request_for_that_image(serving: TestClient) -> None:
    query: dict[str, Any] = {"class": "cat", "n": 2, "seed": 5}
    answer = serving.get("/generate", params=query | {"format": "zip", "files": "webp", "quality": 75})

    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["cat-0000.webp", "cat-0001.webp", "images.json"]
        second = archive.read("cat-0001.webp")
    single: dict[str, Any] = {"class": "cat", "n": 1, "seed": 5, "first_index": 1, "format": "webp", "quality": 75}
    assert serving.get("/generate", params=single).content == second


@pytest.mark.parametrize(("query", "field"), [
    ({"quality": 80}, "quality"), ({"format": "webp", "quality": 0}, "quality"),
    ({"format": "webp", "files": "jpeg"}, "files"), ({"format": "webp", "compress": "fast"}, "compress"),
    ({"format": "webp", "n": 1024, "columns": 1024}, "columns"),
])  # fmt: skip
def test_options_that_a_format_does_not_have_are_refused(
    query: dict[str, Any], field: str, serving: TestClient
) -> None:
    answer = serving.get("/generate", params={"class": "cat", **query})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
