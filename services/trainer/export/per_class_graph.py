"""Merges the ONNX graphs of several generators, one per class, into one graph with the usual signature.

The torch counterpart is networks.per_class_generator. Each class has an `If` node whose branch gathers the latents of
that class, runs its generator and scatters the images back into the batch. A class without images in a batch costs
nothing, and no weight is copied. A graph without `If` was 3 to 4.5 times slower: docs/explanation/serving.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, compose, helper, numpy_helper


def merge_per_class_graphs(graphs: Sequence[bytes]) -> bytes:
    """Merges one graph per class; every graph maps z [N, latent], labels [N] -> images [N, C, H, W]."""
    models = [onnx.load_from_string(graph) for graph in graphs]
    if any(model.functions for model in models):
        raise ValueError("the exporter is expected to inline its functions")
    nodes = [
        helper.make_node("Shape", ["labels"], ["count"]),
        helper.make_node("Concat", ["count", "image"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["images_0"]),
    ]
    constants = [numpy_helper.from_array(np.array(_shape(models[0]), dtype=np.int64), "image")]
    for label, model in enumerate(models):
        nodes += _class_nodes(label, model)
        constants.append(numpy_helper.from_array(np.array(label, dtype=np.int64), f"label_{label}"))
    nodes.append(helper.make_node("Identity", [f"images_{len(models)}"], ["images"]))
    output = _images("images", models[0])
    merged = helper.make_graph(nodes, "per_class", list(models[0].graph.input), [output], constants)
    result = helper.make_model(merged, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    onnx.checker.check_model(result)
    data: bytes = result.SerializeToString()
    return data


def _class_nodes(label: int, model: onnx.ModelProto) -> list[NodeProto]:
    """images_<label> -> images_<label + 1>, with the images of this class filled in."""
    before, after = f"images_{label}", f"images_{label + 1}"
    idle = helper.make_graph(
        [helper.make_node("Identity", [before], [f"same_{label}"])],
        f"without_{label}",
        [],
        [_images(f"same_{label}", model)],
    )
    return [
        helper.make_node("Equal", ["labels", f"label_{label}"], [f"is_{label}"]),
        helper.make_node("Cast", [f"is_{label}"], [f"counts_{label}"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", [f"counts_{label}"], [f"count_{label}"], keepdims=0),
        helper.make_node("Cast", [f"count_{label}"], [f"occurs_{label}"], to=TensorProto.BOOL),
        helper.make_node(
            "If", [f"occurs_{label}"], [after], then_branch=_branch(label, model, before), else_branch=idle
        ),
    ]


def _branch(label: int, model: onnx.ModelProto, before: str) -> GraphProto:
    prefix = f"class_{label}/"
    graph = compose.add_prefix_graph(model.graph, prefix)
    taken = [
        helper.make_node("NonZero", [f"is_{label}"], [prefix + "places"]),  # [1, M]
        helper.make_node("Transpose", [prefix + "places"], [prefix + "rows"], perm=[1, 0]),  # [M, 1]
        helper.make_node("GatherND", ["z", prefix + "rows"], [prefix + "z"]),
        helper.make_node("GatherND", ["labels", prefix + "rows"], [prefix + "labels"]),
    ]
    put = helper.make_node("ScatterND", [before, prefix + "rows", prefix + "images"], [f"filled_{label}"])
    return helper.make_graph(
        [*taken, *graph.node, put], f"with_{label}", [], [_images(f"filled_{label}", model)], list(graph.initializer)
    )


def _shape(model: onnx.ModelProto) -> list[int]:
    """[C, H, W] of the images that the graph makes."""
    return [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]]


def _images(name: str, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *_shape(model)])
