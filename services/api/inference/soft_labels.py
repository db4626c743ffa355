"""A generator whose classes can be mixed: the same graph with a share of each class in place of a label.

Where the published graph looks up the row of a label in a table of classes, this one multiplies the shares with the
table. A share of 1 gives the row to the bit, for all the other products are zeros.
"""

from __future__ import annotations

SHARES = "shares"  # [N, classes] float32, in place of `labels`


def with_shares(graph: bytes) -> bytes | None:
    """The graph with the input `shares`, or None when it uses its labels otherwise than to look up rows."""
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
        product = onnx.helper.make_node("MatMul", [SHARES, node.input[0]], list(node.output), name=node.name)
        node.CopyFrom(product)
    if not rows:
        return None
    inputs = [value for value in model.graph.input if value.name != "labels"]
    del model.graph.input[:]
    shares = onnx.helper.make_tensor_value_info(SHARES, onnx.TensorProto.FLOAT, ["batch", rows])
    model.graph.input.extend([*inputs, shares])
    mixing: bytes = model.SerializeToString()
    return mixing
