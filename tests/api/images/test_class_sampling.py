"""Images by class out of a model that knows no classes: the classifier picks them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.api.images.png import read_provenance
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
    """An API whose model makes images of any colour and cannot be told which."""
    publish(registry, "plain", graph=make_generator(LATENT, len(CLASSES), is_tinted=True), conditional=False)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def color_of(tile: np.ndarray) -> str:
    return ("red", "green", "blue")[tile.mean(axis=(0, 1)).argmax()]


def redness_of(tile: np.ndarray) -> float:
    """What the classifier must give to red, worked out by hand."""
    odds = np.exp(4 * (tile.mean(axis=(0, 1)) / 127.5 - 1))
    return float(odds[0] / odds.sum())


def test_an_unconditional_model_gives_images_of_the_class_that_is_asked_for(
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


def test_few_accepted_images_are_the_beginning_of_many_whoever_else_asks(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    sixteen = tiles(get(colorful, **{"class": "blue", "n": 16, "seed": 3}), 16)

    with ThreadPoolExecutor(8) as pool:
        asked = [(n, pool.submit(get, colorful, **{"class": "blue", "n": n, "seed": 3})) for n in range(1, 16)]
        company = [pool.submit(get, colorful, n=7, seed=seed) for seed in range(8)]
        for n, some in asked:
            np.testing.assert_array_equal(tiles(some.result(), n), sixteen[:n])
        assert len({other.result() for other in company}) == 8


def test_the_file_tells_which_draws_were_accepted_and_by_whom(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    answer = colorful.get("/generate", params={"class": "green", "n": 16, "seed": 9, "threshold": 0.6})
    provenance = read_provenance(answer.content)

    assert provenance is not None
    assert provenance["class"] == "green"
    assert (provenance["class_method"], provenance["threshold"]) == ("classifier", 0.6)
    assert provenance["classifier"] == classifier.digest
    assert provenance["draws"] == int(answer.headers["x-kiln-draws"]) == provenance["indices"][-1] + 1
    # Then: they are those images of the plain sequence of that seed, and of the first draws no other would do.
    everything = tiles(get(colorful, n=provenance["draws"], seed=9), provenance["draws"])
    np.testing.assert_array_equal(tiles(answer.content, 16), [everything[index] for index in provenance["indices"]])
    looser = read_provenance(get(colorful, **{"class": "green", "n": 16, "seed": 9, "threshold": 0.3}))
    assert looser is not None
    assert set(provenance["indices"]) <= set(looser["indices"]) | set(range(looser["draws"], provenance["draws"]))


def test_json_tells_it_of_each_class_that_was_asked_for(colorful: TestClient, classifier: ClassifierManifest) -> None:
    answer = colorful.post("/generate", json={"class": ["red", "blue"], "n": 3, "seed": 5, "format": "json"})

    told = answer.json()
    assert (told["class_method"], told["classifier"]) == ("classifier", classifier.digest)
    assert [image["class"] for image in told["images"]] == ["red"] * 3 + ["blue"] * 3
    for color, indices in zip(("red", "blue"), told["indices"], strict=True):
        alone = read_provenance(get(colorful, **{"class": color, "n": 3, "seed": 5}))
        assert alone is not None
        assert alone["indices"] == indices
    assert int(answer.headers["x-kiln-draws"]) == max(told["draws"])


def test_when_the_limit_is_reached_the_answer_says_how_many_were_found(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    nearly = colorful.get("/generate", params={"class": "red", "n": 16, "seed": 1, "max_draws": 16})
    none = colorful.get("/generate", params={"class": "red", "n": 4, "seed": 1, "threshold": 1, "max_draws": 100})

    expected = sum(redness_of(tile) >= 0.5 for tile in tiles(get(colorful, n=16, seed=1), 16))
    for answer, limit, found in ((nearly, 16, f"{expected} of 16"), (none, 100, "0 of 4")):
        assert answer.status_code == 422
        (problem,) = answer.json()["errors"]
        assert (problem["field"], problem["value"]) == ("max_draws", limit)
        assert f"accepted {found} of class red" in problem["message"]


def test_several_classes_are_judged_at_once_and_any_file_can_be_verified(
    colorful: TestClient, classifier: ClassifierManifest
) -> None:
    sheet = colorful.get("/generate", params={"class": "all", "n": 3, "seed": 1})
    rows = tiles(sheet.content, 9)
    for row, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(
            rows[3 * row : 3 * row + 3], tiles(get(colorful, **{"class": name, "n": 3, "seed": 1}), 3)
        )

    single = colorful.get("/generate", params={"class": "red", "n": 1, "first_index": 2, "seed": 1}).content
    for png in (sheet.content, single):
        assert colorful.post("/verify", content=png).json()["reason"] is None


def test_without_a_class_nothing_is_judged(colorful: TestClient) -> None:
    """And so no classifier is needed."""
    answer = colorful.get("/generate", params={"n": 4, "seed": 1})

    assert answer.status_code == 200
    assert "x-kiln-class-method" not in answer.headers


def test_without_a_classifier_the_answer_is_503_and_says_what_is_missing(colorful: TestClient) -> None:
    answer = colorful.get("/generate", params={"class": "red"})

    assert answer.status_code == 503
    assert "there is no classifier" in answer.json()["detail"]


def test_a_damaged_classifier_judges_nothing(
    colorful: TestClient, classifier: ClassifierManifest, settings: Settings
) -> None:
    (settings.classifier / "classifier.onnx").write_bytes(b"something else")

    answer = colorful.get("/generate", params={"class": "red"})

    assert answer.status_code == 503
    assert "classifier.onnx" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field", "why"),
    [
        ({"class": "cat"}, "class", "the classifier knows red, green, blue"),
        ({"class": "3"}, "class", "the classifier knows red, green, blue"),
        ({"class": "red", "threshold": 0}, "threshold", "greater than 0"),
        ({"class": "red", "threshold": 1.5}, "threshold", "less than or equal to 1"),
        ({"class": "red", "threshold": "nan"}, "threshold", "finite number"),
        ({"class": "red", "max_draws": 0}, "max_draws", "greater than or equal to 1"),
        ({"class": "red", "max_draws": 10**6}, "max_draws", "less than or equal to 20000"),
        ({"threshold": 0.5}, "threshold", "asked for no class"),
    ],
)
def test_wrong_values_are_named(
    colorful: TestClient, classifier: ClassifierManifest, query: dict[str, Any], field: str, why: str
) -> None:
    answer = colorful.get("/generate", params=query)

    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["field"] == field
    assert why in problem["message"]


def test_a_conditional_model_is_told_the_class_and_draws_nothing_in_vain(serving: TestClient) -> None:
    answer = serving.get("/generate", params={"class": "cat"})
    assert answer.headers["x-kiln-class-method"] == "conditional"
    assert "x-kiln-draws" not in answer.headers
    told = serving.post("/generate", json={"class": "cat", "n": 1, "format": "json"}).json()
    assert told["class_method"] == "conditional"

    refused = serving.get("/generate", params={"class": "cat", "max_draws": 100})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "max_draws"


def test_a_model_of_a_gan_per_class_says_so(serving: TestClient, registry: ModelRegistry) -> None:
    config = PRESETS["dcgan-per-class"].config
    publish(registry, "ten-in-one", config=config)

    answer = serving.get("/generate", params={"class": "cat", "model": "ten-in-one"})

    assert answer.headers["x-kiln-class-method"] == "per-class"
    provenance = read_provenance(answer.content)
    assert provenance is not None
    assert (provenance["class"], provenance["class_method"]) == ("cat", "per-class")
