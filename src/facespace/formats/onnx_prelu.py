"""Rewrites PRelu as operators that ONNX Runtime computes faster.

ONNX Runtime stores the values of convolutions in blocks of channels, but its PRelu does not support blocks, so it
rearranges all values before and after each PRelu. The operators used here work on blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.formats.onnx_model import FLOAT, add_tensor, copied, new_node, parse_model, read_tensor

_BROADCASTING_OPSET = 7


def with_split_prelu(model: bytes, source: str) -> bytes:
    """Return the ONNX network with each PRelu replaced by multiplications, a Relu and an addition.

    PRelu(x) = a·x + relu((1 − a)·x) for a slope a ≤ 1, and a·x − relu((a − 1)·x) for a > 1. If a convolution is the
    only reader of the result, −PRelu(x) = −a·x + relu((a − 1)·x) is computed for slopes a > 1, and the sign moves into
    the convolution's weights. A PRelu is replaced only if its slopes are float32 constants and the opset is at least 7,
    where operators broadcast. Bytes that do not contain `PRelu` are returned without parsing. Other bytes raise
    `ModelError`, which names `source`, if they are not an ONNX model.
    """
    if b"PRelu" not in model:
        return model
    parsed = parse_model(model, source)
    graph = parsed.graph
    if max((opset.version for opset in parsed.opset_import if not opset.domain), default=0) < _BROADCASTING_OPSET:
        return model
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
    nodes = []
    for number, node in enumerate(graph.node):
        slope = constants.get(node.input[1]) if node.op_type == "PRelu" and len(node.input) == 2 else None
        if slope is None:
            nodes.append(node)
            continue
        a = read_tensor(slope, source)
        stem = f"facespace_prelu_{number}"
        above = a > 1
        line = a
        if above.any() and _take_signs(graph, node.output[0], np.where(above, -1, 1), stem, source):
            line, above = np.where(above, -a, a), np.zeros_like(above)
        add_tensor(graph, f"{stem}_slope", line)
        add_tensor(graph, f"{stem}_rest", np.abs(1 - a))
        nodes.append(new_node("Mul", f"{stem}_scaled", [node.input[0], f"{stem}_rest"], {}))
        nodes.append(new_node("Relu", f"{stem}_positive", [f"{stem}_scaled"], {}))
        positive = f"{stem}_positive"
        if above.any():
            add_tensor(graph, f"{stem}_sign", np.where(above, -1, 1).astype(np.float32))
            nodes.append(new_node("Mul", f"{stem}_signed", [positive, f"{stem}_sign"], {}))
            positive = f"{stem}_signed"
        nodes.append(new_node("Mul", f"{stem}_line", [node.input[0], f"{stem}_slope"], {}))
        nodes.append(new_node("Add", node.output[0], [f"{stem}_line", positive], {}))
    copies = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return bytes(parsed.SerializeToString())


def _take_signs(graph: Any, value: str, signs: npt.NDArray[np.int64], stem: str, source: str) -> bool:
    """Multiply the weights of the convolution that reads `value` by one sign per channel; return whether that was possible.

    The convolution must be the only reader of `value` and of its own weights, which must be constant.
    """
    readers = [node for node in graph.node if value in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv" or readers[0].input[0] != value:
        return False
    (conv,) = readers
    constants = [tensor for tensor in graph.initializer if tensor.name == conv.input[1]]
    shared = sum(list(node.input).count(conv.input[1]) for node in graph.node) > 1
    if len(constants) != 1 or shared or value in {output.name for output in graph.output}:
        return False
    weights = read_tensor(constants[0], source)
    groups = next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
    n_channels = weights.shape[1] * groups
    if weights.ndim != 4 or signs.size != n_channels or signs.shape[-3:] != (n_channels, 1, 1):
        return False
    # Input channel j of group g is channel g·(C/groups) + j; the outputs of a group are contiguous.
    of_group = signs.reshape(groups, 1, weights.shape[1], 1, 1)
    flipped = (weights.reshape(groups, -1, *weights.shape[1:]) * of_group).reshape(weights.shape)
    graph.initializer.remove(constants[0])
    conv.input[1] = f"{stem}_weight"
    add_tensor(graph, conv.input[1], flipped.astype(weights.dtype))
    return True
