"""Images by class from an unconditional model: rejection sampling with the classifier."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.generator.png import read_provenance
from shared.configs.presets import PRESETS
from shared.settings import Settings
from shared.storage.classifier_files import ClassifierManifest
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import CLASSES, LATENT, publish, wait_until_ready
from tests.api.graphs import make_generator, write_color_classifier
from tests.api.images.test_generate import get, tiles


@pytest.fixture
def classifier(settings: Settings) -> ClassifierManifest:
    """Knows red, green and blue."""
    return write_color_classifier(settings.classifier)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"classifier": settings.data / "classifier"})


@pytest.fixture
def colorful(settings: Settings, registry: ModelRegistry) -> Iterator[TestClient]:
    """An API whose unconditional model generates images of any colour."""
    publish(registry, "plain", graph=make_generator(LATENT, len(CLASSES), is_tinted=True), conditional=False)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def color_of(tile: np.ndarray) -> str:
    return ("red", "green", "blue")[tile.mean(axis=(0, 1)).argmax()]


def redness_of(tile: np.ndarray) -> float:
    """The classifier's probability of red, computed by hand."""
    odds = np.exp(4 * (tile.mean(axis=(0, 1)) / 127.5 - 1))
    return float(odds[0] / odds.sum())


def test_an_unconditional_model_gives_images_of_the_requested_class(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    any_color = tiles(get(colorful, n=16, seed=1), 16)
    assert {color_of(tile) for tile in any_color} == {"red", "green", "blue"}

    answer = colorful.get("/generate", params={"class": "red", "n": 16, "seed": 1})

    assert {color_of(tile) for tile in tiles(answer.content, 16)} == {"red"}
    assert answer.headers["x-kiln-class-method"] == "classifier"
    assert int(answer.headers["x-kiln-draws"]) > 16
    least, mean = (float(part.split("=")[1]) for part in answer.headers["x-kiln-confidence"].split(", "))
    assert 0.5 <= least <= mean <= 1


def test_a_smaller_n_gives_the_first_accepted_images_of_a_larger_n_under_load(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    sixteen = tiles(get(colorful, **{"class": "blue", "n": 16, "seed": 3}), 16)

    with ThreadPoolExecutor(8) as pool:
        smaller = [(n, pool.submit(get, colorful, **{"class": "blue", "n": n, "seed": 3})) for n in range(1, 16)]
        others = [pool.submit(get, colorful, n=7, seed=seed) for seed in range(8)]
        for n, some in smaller:
            np.testing.assert_array_equal(tiles(some.result(), n), sixteen[:n])
        assert len({other.result() for other in others}) == 8


def test_the_provenance_lists_the_accepted_draws_and_the_classifier(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    answer = colorful.get("/generate", params={"class": "green", "n": 16, "seed": 9, "threshold": 0.6})
    provenance = read_provenance(answer.content)

    assert provenance is not None
    assert provenance["class"] == "green"
    assert (provenance["class_method"], provenance["threshold"]) == ("classifier", 0.6)
    assert provenance["classifier"] == classifier.digest
    assert provenance["draws"] == int(answer.headers["x-kiln-draws"]) == provenance["indices"][-1] + 1
    # Then they are images of the seed without a class, and a lower threshold accepts at least the same ones
    everything = tiles(get(colorful, n=provenance["draws"], seed=9), provenance["draws"])
    np.testing.assert_array_equal(tiles(answer.content, 16), [everything[index] for index in provenance["indices"]])
    looser = read_provenance(get(colorful, **{"class": "green", "n": 16, "seed": 9, "threshold": 0.3}))
    assert looser is not None
    assert set(provenance["indices"]) <= set(looser["indices"]) | set(range(looser["draws"], provenance["draws"]))


def test_json_lists_the_accepted_draws_of_each_class(colorful: TestClient, classifier: ClassifierManifest) -> None:
    answer = colorful.post("/generate", json={"class": ["red", "blue"], "n": 3, "seed": 5, "format": "json"})

    body = answer.json()
    assert (body["class_method"], body["classifier"]) == ("classifier", classifier.digest)
    assert [image["class"] for image in body["images"]] == ["red"] * 3 + ["blue"] * 3
    for color, indices in zip(("red", "blue"), body["indices"], strict=True):
        alone = read_provenance(get(colorful, **{"class": color, "n": 3, "seed": 5}))
        assert alone is not None
        assert alone["indices"] == indices
    assert int(answer.headers["x-kiln-draws"]) == max(body["draws"])


def test_when_max_draws_is_reached_the_error_says_how_many_images_were_accepted(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    nearly = colorful.get("/generate", params={"class": "red", "n": 16, "seed": 1, "max_draws": 16})
    none = colorful.get("/generate", params={"class": "red", "n": 4, "seed": 1, "threshold": 1, "max_draws": 100})

    expected = sum(redness_of(tile) >= 0.5 for tile in tiles(get(colorful, n=16, seed=1), 16))
    for answer, limit, accepted in ((nearly, 16, f"{expected} of 16"), (none, 100, "0 of 4")):
        assert answer.status_code == 422
        (problem,) = answer.json()["errors"]
        assert (problem["field"], problem["value"]) == ("max_draws", limit)
        assert f"accepted {accepted} of class 'red'" in problem["message"]


def test_several_classes_share_their_draws_and_each_file_can_be_verified(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    grid = colorful.get("/generate", params={"class": "all", "n": 3, "seed": 1})
    rows = tiles(grid.content, 9)
    for row, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(
            rows[3 * row : 3 * row + 3], tiles(get(colorful, **{"class": name, "n": 3, "seed": 1}), 3)
        )

    single = colorful.get("/generate", params={"class": "red", "n": 1, "first_index": 2, "seed": 1}).content
    for png in (grid.content, single):
        assert colorful.post("/verify", content=png).json()["reason"] is None


def test_a_request_without_a_class_uses_no_classifier(colorful: TestClient) -> None:
    answer = colorful.get("/generate", params={"n": 4, "seed": 1})

    assert answer.status_code == 200
    assert "x-kiln-class-method" not in answer.headers


def test_without_a_classifier_the_error_is_503_and_names_it(colorful: TestClient) -> None:
    answer = colorful.get("/generate", params={"class": "red"})

    assert answer.status_code == 503
    assert "there is no classifier" in answer.json()["detail"]


def test_a_damaged_classifier_is_never_used(
    colorful: TestClient, classifier: ClassifierManifest, settings: Settings
) -> None:
    (settings.classifier / "classifier.onnx").write_bytes(b"something else")

    answer = colorful.get("/generate", params={"class": "red"})

    assert answer.status_code == 503
    assert "classifier.onnx" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field", "why"),
    [
        ({"class": "cat"}, "class", "the classifier has 'red', 'green', 'blue'"),
        ({"class": "3"}, "class", "the classifier has 'red', 'green', 'blue'"),
        ({"class": "red", "threshold": 0}, "threshold", "greater than 0"),
        ({"class": "red", "threshold": 1.5}, "threshold", "less than or equal to 1"),
        ({"class": "red", "threshold": "nan"}, "threshold", "finite number"),
        ({"class": "red", "max_draws": 0}, "max_draws", "greater than or equal to 1"),
        ({"class": "red", "max_draws": 10**6}, "max_draws", "less than or equal to 20000"),
        ({"threshold": 0.5}, "threshold", "no class is requested"),
    ],
)
def test_an_invalid_value_names_its_field(
    colorful: TestClient, classifier: ClassifierManifest, query: dict[str, Any], field: str, why: str
) -> None:
    answer = colorful.get("/generate", params=query)

    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["field"] == field
    assert why in problem["message"]


def test_a_conditional_model_takes_the_class_as_input_and_rejects_no_images(serving: TestClient) -> None:
    answer = serving.get("/generate", params={"class": "cat"})
    assert answer.headers["x-kiln-class-method"] == "conditional"
    assert "x-kiln-draws" not in answer.headers
    body = serving.post("/generate", json={"class": "cat", "n": 1, "format": "json"}).json()
    assert body["class_method"] == "conditional"

    refused = serving.get("/generate", params={"class": "cat", "max_draws": 100})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "max_draws"


def test_a_model_with_one_gan_per_class_reports_its_method(serving: TestClient, registry: ModelRegistry) -> None:
    config = PRESETS["dcgan-per-class"].config
    publish(registry, "ten-in-one", config=config)

    answer = serving.get("/generate", params={"class": "cat", "model": "ten-in-one"})

    assert answer.headers["x-kiln-class-method"] == "per-class"
    provenance = read_provenance(answer.content)
    assert provenance is not None
    assert (provenance["class"], provenance["class_method"]) == ("cat", "per-class")
