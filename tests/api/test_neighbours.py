"""GET /models/{id}/neighbours.png, and the figures of memorisation in a model's manifest."""

from __future__ import annotations

from fastapi.testclient import TestClient

from shared.storage.model_registry import Memorisation, ModelRegistry
from tests.api.conftest import publish

COPYING = Memorisation(
    images=1000, authenticity=0.1, copied_share=0.9, nearer_share=0.98, reference="test", reference_images=1000,
    reference_authenticity=0.7, warning="the model copies training images",
)  # fmt: skip


def test_the_picture_and_the_warning_of_a_model_that_copies_are_returned(
    client: TestClient, registry: ModelRegistry
) -> None:
    publish(registry, "copying", memorisation=COPYING, more={"neighbours.png": b"a picture"})

    picture = client.get("/models/copying/neighbours.png")

    assert (picture.status_code, picture.content) == (200, b"a picture")
    assert picture.headers["content-type"] == "image/png"
    assert "immutable" in picture.headers["cache-control"]
    memorisation = client.get("/models/copying").json()["manifest"]["memorisation"]
    assert memorisation == COPYING.model_dump(mode="json")


def test_a_model_that_was_not_measured_has_no_picture(client: TestClient, registry: ModelRegistry) -> None:
    publish(registry, "older")

    answer = client.get("/models/older/neighbours.png")

    assert answer.status_code == 404
    assert answer.json()["detail"] == "there is no picture of nearest neighbours of model 'older'"
    assert client.get("/models/older").json()["manifest"]["memorisation"] is None
