"""Measures how often rejection sampling returns images of the right class.

    python -m benchmarks.hidden_class cpu-hours-interim --images 20      # with the API's KILN_DATA and KILN_URL

Publishes a copy of a conditional model that takes its label from ten additional latent values, so that no client can
choose the class. Kiln treats the copy as an unconditional model and samples each class with the classifier. The latent
vectors of the accepted draws reveal the true class of each image.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kiln import InvalidInput, Kiln
from services.generator.latents import draw_latents, stream_of
from services.generator.png import read_provenance
from shared.settings import read_settings
from shared.storage.artifacts import ArtifactStore
from shared.storage.model_registry import GENERATOR_FILE, ModelManifest, ModelRegistry

SEED = 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hidden_class", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="id of a conditional model")
    parser.add_argument("--images", type=int, default=20, help="images per class")
    parser.add_argument("--max-draws", type=int, default=5000, help="draws per class before it gives up")
    options = parser.parse_args()
    registry = ModelRegistry(ArtifactStore(read_settings().artifact_url))
    hidden = publish_hidden(registry, registry.get(options.model))
    print("| class | draws per image | mean confidence | images of the class |")
    print("| --- | ---: | ---: | ---: |")
    with Kiln(timeout_s=600) as kiln:
        for name in hidden.classes:
            try:
                png = kiln.generate_png(name, options.images, seed=SEED, model=hidden.id, max_draws=options.max_draws)
            except InvalidInput as error:
                print(f"| {name} | {error} | | |", flush=True)
                continue
            provenance = read_provenance(png) or {}
            z = draw_latents(stream_of(SEED, provenance["indices"]), hidden.latent_dim)
            drawn = z[:, -len(hidden.classes) :].argmax(1)
            right = float((drawn == hidden.classes.index(name)).mean())
            draws, confidence = provenance["draws"] / options.images, float(np.mean(provenance["confidences"]))
            print(f"| {name} | {draws:.1f} | {confidence:.2f} | {right:.0%} |", flush=True)
    return 0


def publish_hidden(registry: ModelRegistry, manifest: ModelManifest) -> ModelManifest:
    """Publishes the model with a hidden class; a second call returns the model that exists."""
    graph = hide_class(registry.read_file(manifest, GENERATOR_FILE), manifest.latent_dim, len(manifest.classes))
    change = {
        "id": f"{manifest.id}-hidden", "conditional": False, "latent_dim": manifest.latent_dim + len(manifest.classes)
    }  # fmt: skip
    return registry.publish(manifest.model_copy(update=change), {GENERATOR_FILE: graph})


def hide_class(graph: bytes, latent_dim: int, num_classes: int) -> bytes:
    """The graph with z [N, latent + classes]; it ignores `labels` and takes the argmax of the last values as class."""
    model = onnx.load_from_string(graph)
    for node in model.graph.node:
        renamed = {"z": "own_z", "labels": "drawn_label"}
        node.input[:] = [renamed.get(name, name) for name in node.input]
    before = [
        helper.make_node("Split", ["z", "lengths"], ["own_z", "odds"], axis=1),
        helper.make_node("ArgMax", ["odds"], ["drawn_label"], axis=1, keepdims=0),
    ]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    lengths = np.array([latent_dim, num_classes], dtype=np.int64)
    model.graph.initializer.append(numpy_helper.from_array(lengths, "lengths"))
    (z,) = (value for value in model.graph.input if value.name == "z")
    z.type.tensor_type.shape.dim[1].dim_value = latent_dim + num_classes
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


if __name__ == "__main__":
    raise SystemExit(main())
