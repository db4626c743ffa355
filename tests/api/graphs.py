"""Builds small ONNX graphs without torch: generators, correct and broken ones, and a classifier."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.configs.classifier import ClassifierConfig
from shared.storage.classifier_files import GRAPH_FILE, WEIGHTS_FILE, ClassifierManifest, write_classifier
from shared.storage.model_registry import Parity

PIXELS = 3 * 32 * 32


def make_generator(
    latent_dim: int, num_classes: int, *, seed: int = 0, gain: float = 1.0, height: int = 32, squash: str = "Tanh",
    z_name: str = "z", spoiled_class: int | None = None, work: int = 0, is_tinted: bool = False,
) -> bytes:  # fmt: skip
    """images = tanh(z W + E[labels]), reshaped to [N, 3, height, 3 * 32 * 32 / (3 * height)].

    `gain` scales the weights (NaN: the model yields NaN); `squash` replaces tanh; `height` and `z_name` break the
    signature; `work` adds that many products with a matrix of 9 million numbers; the images of `spoiled_class` are NaN;
    with `is_tinted`, z sets one colour for the whole image.
    """
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((latent_dim, PIXELS)) * gain).astype(np.float32)
    if is_tinted:
        weights = weights[:, :3].repeat(PIXELS // 3, axis=1)
    classes = (rng.standard_normal((num_classes, PIXELS)) * gain).astype(np.float32)
    if spoiled_class is not None:
        classes[spoiled_class] = np.nan
    shape = np.array([-1, 3, height, PIXELS // (3 * height)], dtype=np.int64)
    sums = ["sum", *(f"sum{step}" for step in range(work))]
    squares = [(rng.standard_normal((PIXELS, PIXELS)) / np.sqrt(PIXELS)).astype(np.float32)] if work else []
    nodes = [
        helper.make_node("MatMul", [z_name, "weights"], ["projected"]),
        helper.make_node("Gather", ["classes", "labels"], ["offset"]),
        helper.make_node("Add", ["projected", "offset"], ["sum"]),
        *(helper.make_node("MatMul", [before, "square"], [after]) for before, after in pairwise(sums)),
        helper.make_node(squash, [sums[-1]], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["images"]),
    ]
    graph = helper.make_graph(
        nodes,
        "generator",
        [
            helper.make_tensor_value_info(z_name, TensorProto.FLOAT, ["batch", latent_dim]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, PIXELS // (3 * height)])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(classes, "classes"),
            numpy_helper.from_array(shape, "shape"),
            *(numpy_helper.from_array(square, "square") for square in squares),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def write_color_classifier(folder: Path, confidence: float = 4.0) -> ClassifierManifest:
    """A classifier of red, green and blue: its logits are the means of the three channels, times `confidence`."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
            helper.make_node("Mul", ["means", "confidence"], ["logits"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"),
            numpy_helper.from_array(np.array(confidence, dtype=np.float32), "confidence"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    draft = ClassifierManifest(
        created_at=datetime(2026, 1, 1, tzinfo=UTC), dataset="colors", classes=("red", "green", "blue"), feature_dim=1,
        config=ClassifierConfig(), test_images=1, test_accuracy=1.0, class_accuracy={}, images_seen=0, wall_seconds=0,
        images_per_second=0, device="hand", command="none", parity=Parity(max_abs_difference=0.0, batch_sizes=(1,)),
    )  # fmt: skip
    return write_classifier(folder, draft, {GRAPH_FILE: model.SerializeToString(), WEIGHTS_FILE: b"none"})
