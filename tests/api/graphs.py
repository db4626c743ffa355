"""Generators made by hand, in ONNX, without torch: one that is right and several that are wrong."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PIXELS = 3 * 32 * 32


def make_generator(
    latent_dim: int, num_classes: int, *, seed: int = 0, gain: float = 1.0, height: int = 32, squash: str = "Tanh",
    z_name: str = "z", spoiled_class: int | None = None, work: int = 0,
) -> bytes:  # fmt: skip
    """images = tanh(z W + E[labels]), reshaped to [N, 3, height, 3 * 32 * 32 / (3 * height)].

    `gain` scales the weights (NaN: the model yields NaN); `squash` replaces tanh; `height` and `z_name` break the
    signature; `work` adds so many products with a matrix of 9 million numbers; the images of `spoiled_class` are NaN.
    """
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((latent_dim, PIXELS)) * gain).astype(np.float32)
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
