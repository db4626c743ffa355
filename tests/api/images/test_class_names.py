"""Classes are found by name or number, on every path that takes a class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from services.api.app import create_app
from services.generator.png import read_provenance
from shared.settings import Settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import ModelRegistry
from tests.api.conftest import LATENT, publish, wait_until_ready
from tests.api.graphs import make_generator

MONTHS = tuple(map(str, range(1, 13)))
NAMES = (" cafe\u0301", "Füchse", "cat, or dog", "all", "x" * 255, unicodedata.normalize("NFD", "é" * 127))


@pytest.fixture(scope="module")
def named(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An API with the models `months`, whose classes are named by numbers, and `names`."""
    settings = Settings(data=tmp_path_factory.mktemp("named"), redis_url=redis_server, threads=1)
    registry = ModelRegistry(ArtifactStore(settings.artifact_url))
    for model_id, classes in (("months", MONTHS), ("names", NAMES)):
        publish(registry, model_id, classes=classes, graph=make_generator(LATENT, len(classes)))
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def class_of(response: httpx2.Response) -> Any:
    """The class in the provenance of the PNG."""
    assert response.status_code == 200, response.text
    provenance = read_provenance(response.content)
    assert provenance is not None
    return provenance["class"]


def get(client: TestClient, model: str, value: str) -> httpx2.Response:
    return client.get("/generate", params={"class": value, "model": model, "n": 1, "seed": 1})


def test_a_class_named_by_a_number_is_found_by_its_name_and_never_by_its_position(named: TestClient) -> None:
    for name in ("1", "7", "12"):
        assert class_of(get(named, "months", name)) == name
        assert class_of(named.post("/generate", json={"class": int(name), "model": "months", "n": 1})) == name
    for value in ("0", "13", "01"):
        refused = get(named, "months", value)
        assert refused.status_code == 422
        assert "unknown class; model 'months' has '1', '2', " in refused.text
    path = {"from": "0", "to": "12", "model": "months"}
    assert named.get("/interpolate", params=path).json()["errors"][0]["field"] == "from"
    assert named.get("/interpolate", params=path | {"from": "11"}).status_code == 200


@pytest.mark.parametrize("value", ["0000000003", "03", "+3", "3.0", "٣", "10", "99999999999999999999", "-1", ""])
def test_a_number_selects_a_class_only_in_its_plain_form(value: str, served: TestClient) -> None:
    assert class_of(get(served, "first", "3")) == "cat"

    for response in (get(served, "first", value), served.post("/generate", json={"class": [value], "n": 1})):
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "class")


@pytest.mark.parametrize(("value", "name"), [
    ("caf\u00e9", NAMES[0]), (" cafe\u0301 ", NAMES[0]), ("Fu\u0308chse", NAMES[1]), (" F\u00fcchse", NAMES[1]),
    ("cat, or dog", NAMES[2]), ("all", NAMES[3]), ("x" * 255, NAMES[4]), ("é" * 127, NAMES[5]), ("0", NAMES[0]),
])  # fmt: skip
def test_a_class_is_found_in_any_unicode_form_and_with_spaces_around_it(
    value: str, name: str, named: TestClient
) -> None:
    responses = [
        get(named, "names", value),
        named.post("/generate", json={"class": value, "model": "names", "n": 1, "seed": 1}),
        named.post("/generate", json={"class": [value], "model": "names", "n": 1, "seed": 1}),
    ]
    assert [class_of(response) for response in responses] == [name] * 3
    path = named.get("/interpolate", params={"from": value, "to": value, "model": "names", "seed": 1, "steps": 2})
    assert path.status_code == 200
    for png in (responses[0].content, path.content):
        assert named.post("/verify", content=png).json()["reproduced"]


def test_spaces_after_commas_do_not_matter(served: TestClient) -> None:
    for response in (get(served, "first", "cat, dog"), served.post("/generate", json={"class": "cat, dog", "n": 1})):
        assert class_of(response) == ["cat", "dog"]


def test_a_class_name_longer_than_a_folder_may_have_is_refused_everywhere(named: TestClient) -> None:
    value = "x" * 256
    for response in (
        get(named, "names", value),
        named.post("/generate", json={"class": [value], "model": "names"}),
        named.get("/interpolate", params={"from": value, "to": value, "model": "names"}),
    ):
        assert response.status_code == 422
