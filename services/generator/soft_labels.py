"""Turns a conditional generator's graph into one that takes soft labels: a weight per class in place of one class.

Where the published graph looks up the row of a label in an embedding table, this one multiplies the weights with the
table. A weight of 1 gives the same row to the bit, because all other products are zeros.
"""

from __future__ import annotations

SOFT_LABELS = "soft_labels"  # the input [N, classes] float32, in place of `labels`


def with_soft_labels(graph: bytes) -> bytes | None:
    """The graph with the input `soft_labels`; None when it uses its labels for anything but table look-ups."""
    import onnx  # takes a third of a second, and only /interpolate needs it

    model = onnx.load_from_string(graph)
    tables = {table.name: table for table in model.graph.initializer}
    rows = 0
    for node in model.graph.node:
        if "labels" not in node.input:
            continue
        table, axis = tables.get(node.input[0]), {a.name: a.i for a in node.attribute}.get("axis", 0)
        if node.op_type != "Gather" or table is None or len(table.dims) != 2 or axis != 0:
            return None
        rows = table.dims[0]
        product = onnx.helper.make_node("MatMul", [SOFT_LABELS, node.input[0]], list(node.output), name=node.name)
        node.CopyFrom(product)
    if not rows:
        return None
    inputs = [value for value in model.graph.input if value.name != "labels"]
    del model.graph.input[:]
    weights = onnx.helper.make_tensor_value_info(SOFT_LABELS, onnx.TensorProto.FLOAT, ["batch", rows])
    model.graph.input.extend([*inputs, weights])
    serialized: bytes = model.SerializeToString()
    return serialized
