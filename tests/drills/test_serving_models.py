"""Only valid models are served, and no response mixes two models while an alias moves."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from services.generator.engine import OnnxEngine
from services.generator.latents import draw_latents, stream_of
from services.generator.png import tile
from shared.settings import Settings
from shared.storage.model_registry import GENERATOR_FILE
from tests.api.conftest import CLASSES, LATENT, publish
from tests.api.graphs import make_generator
from tests.drills.clients import Crowd
from tests.drills.report import Drill
from tests.drills.servers import Server, running

SEEDS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the model `first`."""
    with running(tmp_path_factory.mktemp("models"), KILN_MAX_WAITING_IMAGES="65536") as server:
        publish(server.registry, "first")
        server.wait_until_ready()
        yield server


def served(server: Server) -> str:
    answer = server.http.get("/generate", params={"class": "cat", "n": 1})
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-kiln-model"])


BROKEN = {  # id -> (graph, the error)
    "no-graph": (b"not a graph", "cannot open"),
    "wrong-shape": (make_generator(LATENT, len(CLASSES), height=16), "the shape"),
    "nan": (make_generator(LATENT, len(CLASSES), gain=float("nan")), "not finite"),
    "nan-in-one-class": (make_generator(LATENT, len(CLASSES), spoiled_class=9), "not finite"),
    "out-of-range": (make_generator(LATENT, len(CLASSES), squash="Identity", gain=100), "outside [-1, 1]"),
    "too-few-classes": (make_generator(LATENT, len(CLASSES) - 1), "fails on its first batch"),
    "other-latents": (make_generator(LATENT + 1, len(CLASSES)), "manifest says 8"),
}


def test_models_that_are_wrong(server: Server, drill: Drill) -> None:
    """Invariant: a model that is half published, corrupt, of the wrong shape or generating NaN is never served and
    never promoted, not even when its alias file is changed directly. The old model stays, and GET /models/{id} gives
    the reason.

    Faults injected: 11 (7 invalid graphs; files without a manifest; a manifest whose file is missing, a file with one
    bit flipped, and a manifest that is cut short).
    Broken by hand: `services/generator/engine.py`: `_check_images` returns at once -> `wrong-shape` was promoted.
    `shared/storage/model_registry.py`: `read_file` without its digest check -> `bit-flipped` was promoted.
    """
    # Given models with one fault each
    registry, models = server.registry, server.data / "artifacts" / "models"
    reasons = {model_id: reason for model_id, (_, reason) in BROKEN.items()}
    for model_id, (graph, _) in BROKEN.items():
        publish(registry, model_id, graph=graph)
    for model_id, reason in (("no-file", "lacks its file"), ("bit-flipped", "does not match the digest")):
        publish(registry, model_id)
        (file,) = (models / model_id).glob(f"*{GENERATOR_FILE}")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.unlink() if model_id == "no-file" else file.write_bytes(data)
        reasons[model_id] = reason
    publish(registry, "cut-short")
    manifest = models / "cut-short" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    shutil.copytree(models / "first", models / "half-published", ignore=shutil.ignore_patterns("manifest.json"))

    for model_id in (*reasons, "cut-short", "half-published"):
        # When a client promotes the model or requests its images
        status = 404 if model_id == "half-published" else 503
        assert server.http.put("/aliases/default", json={"model_id": model_id}).status_code == status, model_id
        assert server.http.get("/generate", params={"class": "cat", "model": model_id}).status_code == status
        # Then the old model is served, and the reason is shown
        assert (served(server), registry.resolve("default")) == ("first", "first")
        view = server.http.get(f"/models/{model_id}")
        if model_id in reasons:
            assert reasons[model_id] in view.json()["refused"], view.text
        else:
            assert view.status_code == status
    alias = server.data / "artifacts" / "aliases" / "default"
    alias.write_text('{"model_id": "nan"}')
    publish(registry, "valid")
    registry.set_alias("other", "valid")
    assert server.http.get("/generate", params={"class": "cat", "model": "other"}).status_code == 200
    assert served(server) == "first"
    registry.set_alias("default", "first")
    listed = {view["manifest"]["id"] for view in server.http.get("/models").json()["data"]}
    assert listed >= {*reasons, "first", "valid"}
    assert listed.isdisjoint({"cut-short", "half-published"})
    drill.record("model half published, corrupt, of the wrong shape, giving NaN", len(reasons) + 2)


def reference(graph: bytes, tmp_path: Path) -> list[NDArray[np.uint8]]:
    """The grids of four cats that the graph gives for each seed, computed here and not by the API."""
    settings = Settings(data=tmp_path, threads=1)
    engine, cat = OnnxEngine(graph, LATENT, len(CLASSES), settings), CLASSES.index("cat")
    labels = np.full(4, cat, dtype=np.int64)
    return [tile(engine.run(draw_latents(stream_of(seed, range(4)), LATENT), labels)) for seed in range(SEEDS)]


def test_promote_while_64_clients_generate(server: Server, drill: Drill, tmp_path: Path) -> None:
    """Invariant: while an alias moves between two models under 64 clients, every response is 200, and its pixels come
    from the one model that it names.

    Faults injected: 10 (promotions, back and forth).
    Broken by hand: `services/api/images/generate.py`: `encode` reads the default model again from the pool after the
    images were generated -> responses whose pixels are another model's.
    """
    graphs = {name: make_generator(LATENT, len(CLASSES), seed=sum(name.encode())) for name in ("first", "next")}
    publish(server.registry, "next", graph=graphs["next"])
    expected = {name: reference(graph, tmp_path) for name, graph in graphs.items()}

    def send(client: httpx2.Client, number: int) -> httpx2.Response:
        return client.get("/generate", params={"class": "cat", "n": 4, "seed": number % SEEDS})

    def check(answer: httpx2.Response) -> None:
        assert answer.status_code == 200, answer.text
        model, seed = answer.headers["x-kiln-model"], int(answer.headers["x-kiln-seed"])
        with Image.open(io.BytesIO(answer.content)) as image:
            assert np.array_equal(np.asarray(image), expected[model][seed]), f"not the images of {model}"

    # Given 64 clients, when the alias goes back and forth
    seen = set()
    with Crowd(server.url, send, 64, check) as crowd:
        for turn in range(10):
            name = ("next", "first")[turn % 2]
            promoted = server.http.put("/aliases/default", json={"model_id": name})
            assert promoted.status_code == 200, promoted.text
            seen.add(served(server))

    # Then both were served, and no response mixed them
    assert seen == {"first", "next"}
    assert len(crowd.answers) > 64
    lost = crowd.errors[0] if crowd.errors else "nothing"
    drill.record("promote while 64 clients generate", 10, lost, f"{len(crowd.answers)} answers")
