"""GET /interpolate goes from one image of /generate to another."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from services.generator.latents import slerp
from tests.api.images.test_response_cache import array, pixels
from tests.api.test_bad_input import assert_problem

QUERY: dict[str, Any] = {"from": "cat", "to": "dog", "steps": 5, "seed": 3}


def strip(client: TestClient, **query: Any) -> np.ndarray:
    """[steps, 32, 32, 3]"""
    answer = client.get("/interpolate", params=query)
    assert answer.status_code == 200, answer.text
    return np.stack(np.split(pixels(answer.content), query["steps"], axis=1))


def test_a_path_starts_and_ends_with_images_of_generate(served: TestClient) -> None:
    images = strip(served, **QUERY)

    np.testing.assert_array_equal(images[0], array(served, **{"class": "cat", "n": 1, "seed": 3})[0])
    np.testing.assert_array_equal(images[-1], array(served, **{"class": "dog", "n": 1, "seed": 3, "first_index": 1})[0])
    assert len(np.unique(images, axis=0)) == 5


def test_the_middle_of_a_path_is_half_of_each_class(served: TestClient) -> None:
    """The test model is tanh(z W + E[class]), so the middle of two classes can be computed from both."""
    cat, dog = (array(served, **{"class": name, "n": 1, "seed": 3})[0] for name in ("cat", "dog"))
    middle = strip(served, **QUERY | {"from_index": 0, "to_index": 0, "steps": 3})[1]

    before_tanh = (np.arctanh(np.clip(image / 127.5 - 1, -0.98, 0.98)) for image in (cat, dog))
    expected = (np.tanh(sum(before_tanh) / 2) + 1) * 127.5
    is_exact = (np.abs(cat - 127.5) < 100) & (np.abs(dog - 127.5) < 100)  # tanh hides what lies near its ends
    assert is_exact.sum() > 300
    assert np.abs(expected - middle)[is_exact].max() <= 2


def test_an_animation_has_the_images_of_the_strip(served: TestClient) -> None:
    answer = served.get("/interpolate", params=QUERY | {"format": "apng", "frame_ms": 40})

    assert answer.headers["content-type"] == "image/apng"
    with Image.open(io.BytesIO(answer.content)) as animation:
        assert (animation.n_frames, animation.info["duration"], animation.info["loop"]) == (5, 40, 0)  # type: ignore[attr-defined]
        for number, expected in enumerate(strip(served, **QUERY)):
            animation.seek(number)
            np.testing.assert_array_equal(np.asarray(animation.convert("RGB")), expected)


def test_the_same_seed_gives_the_same_path(served: TestClient) -> None:
    first, again = (served.get("/interpolate", params=QUERY) for _ in range(2))

    assert first.content == again.content
    known = served.get("/interpolate", params=QUERY, headers={"If-None-Match": first.headers["etag"]})
    assert known.status_code == 304


@pytest.mark.parametrize(("more", "field", "value"), [
    ({"from": "dragon"}, "from", "dragon"), ({"to": "dragon"}, "to", "dragon"), ({"steps": 1}, "steps", "1"),
    ({"steps": 257}, "steps", "257"), ({"format": "gif"}, "format", "gif"), ({"frame_ms": 0}, "frame_ms", "0"),
    ({"steps": 256, "scale": 16}, "scale", 16), ({"colour": "red"}, "colour", "red"),
])  # fmt: skip
def test_an_invalid_value_names_its_field(more: dict[str, Any], field: str, value: Any, served: TestClient) -> None:
    assert_problem(served.get("/interpolate", params=QUERY | more), 422, field, value)


def test_slerp_stays_on_the_sphere_and_meets_both_ends() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 100), dtype=np.float32)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    path = np.stack([slerp(a, b, position) for position in np.linspace(0, 1, 9)])

    np.testing.assert_array_equal(path[[0, -1]], [a, b])
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1, atol=1e-6)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


def test_slerp_by_hand() -> None:
    halfway = slerp(np.array([2, 0], np.float32), np.array([0, 2], np.float32), 0.5)
    np.testing.assert_allclose(halfway, [2**0.5, 2**0.5], rtol=1e-6)
    np.testing.assert_array_equal(slerp(np.ones(3, np.float32), np.ones(3, np.float32), 0.3), np.ones(3))
