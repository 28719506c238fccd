"""YuNet's published network, rewritten so that ONNX Runtime computes it faster.

The outputs are the same up to rounding of float32. The four heads of a stride, with 1, 1, 4 and 10 channels, become one
head of 16 channels, which fills the processor's vectors, and the outputs stay in the layout of the convolutions.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from facespace.errors import ModelError
from facespace.formats.onnx_dequantization import dequantize_blocks
from facespace.formats.onnx_model import add_tensor, copied, describe, new_node, parse_model, read_tensor
from facespace.io.packed_weights import read_packed

FILE = "face_detection_yunet_2023mar_int8bq.onnx"
SHA256 = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
STRIDES = (8, 16, 32)
_HEADS = ("cls", "obj", "bbox", "kps")


@functools.cache
def yunet_network() -> bytes:
    """Return the ONNX network for any number of RGB images (N,H,W,3) uint8 whose sides are multiples of 32.

    It has two outputs: scores (N,M), which are √(class · objectness), and 14 numbers per cell (N,14,M), 4 for the box
    and 10 for the landmarks. M is the number of cells of all strides. Raises `ModelError` for a missing or changed
    file.
    """
    model = parse_model(read_packed(FILE, SHA256), FILE)
    graph = model.graph
    dequantize_blocks(graph, FILE)
    weights = {tensor.name: read_tensor(tensor, FILE) for tensor in graph.initializer}
    heads = [node for node in graph.node if len(node.input) > 1 and node.input[1].startswith("bbox_head.")]
    first = graph.node[0]
    if len(graph.input) != 1 or len(heads) != 2 * len(_HEADS) * len(STRIDES) or first.op_type != "Conv":
        raise ModelError(f"{FILE}: this is not the network of YuNet")
    seen = graph.input[0].name
    nodes = [
        new_node("Reshape", "rows", ["images", "as_rows"], {}),
        new_node("Unsqueeze", "one_plane", ["rows", "channel"], {}),
        new_node("Cast", seen, ["one_plane"], {"to": 1}),
        *_body(graph, heads),
    ]
    # The first convolution reads RGBRGB… as one plane that is three times as wide, which saves splitting the colours into
    # planes. The network was trained on BGR.
    bgr = weights[first.input[1]]
    add_tensor(graph, "as_rows", np.array([0, 0, -1], np.int64))
    add_tensor(graph, "first_rgb", np.ascontiguousarray(bgr[:, ::-1].transpose(0, 2, 3, 1)).reshape(len(bgr), 1, 3, 9))
    first.input[1] = "first_rgb"
    del first.attribute[:]
    wide = {"kernel_shape": [3, 9], "strides": [2, 6], "pads": [1, 3, 1, 3]}
    first.attribute.extend(new_node("Conv", "", [], wide).attribute)
    for level in range(len(STRIDES)):
        nodes += _head(graph, heads, weights, level)
    add_tensor(graph, "parts", np.array([1, 1, 14], np.int64))
    add_tensor(graph, "channel", np.array([1], np.int64))
    nodes.append(new_node("Concat", "joined", [f"cells_{level}" for level in range(len(STRIDES))], {"axis": 2}))
    split = new_node("Split", "class", ["joined", "parts"], {"axis": 1})
    split.output.extend(["objectness", "cells"])
    nodes += [
        split,
        new_node("Sigmoid", "class_share", ["class"], {}),
        new_node("Sigmoid", "objectness_share", ["objectness"], {}),
        new_node("Mul", "product", ["class_share", "objectness_share"], {}),
        new_node("Sqrt", "root", ["product"], {}),
        new_node("Squeeze", "scores", ["root", "channel"], {}),
    ]
    nodes = [copied(node) for node in nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    _remove_unused_constants(graph)
    describe(graph.input.add(name="images"), np.uint8, ["n", "height", "width", 3])
    describe(graph.output.add(name="scores"), np.float32, ["n", "cells"])
    describe(graph.output.add(name="cells"), np.float32, ["n", 14, "cells"])
    return bytes(model.SerializeToString())


def _body(graph: Any, heads: list[Any]) -> list[Any]:
    """Return the nodes that compute the inputs of the heads."""
    producer = {name: node for node in graph.node for name in node.output}
    needed, waiting = set(), [node.input[0] for node in heads]
    while waiting:
        name = waiting.pop()
        if name in producer and name not in needed:
            needed.add(name)
            waiting.extend(producer[name].input)
    head_values = {name for node in heads for name in node.output}
    return [node for node in graph.node if needed.intersection(node.output) - head_values]


def _head(graph: Any, heads: list[Any], weights: dict[str, Any], level: int) -> list[Any]:
    """Return nodes that compute all heads of one stride at once: a 1×1, then a depthwise 3×3 convolution."""
    nodes = []
    value = ""
    for step, size in (("conv1", 1), ("conv2", 3)):
        parts = []
        for head in _HEADS:
            prefix = f"bbox_head.multi_level_{head}.{level}.{step}.weight"
            (node,) = [node for node in heads if node.input[1].startswith(prefix)]
            parts.append((weights[node.input[1]], weights[node.input[2]]))
            if step == "conv1":
                value = node.input[0]
        for k, name in enumerate(("weight", "bias")):
            add_tensor(graph, f"{step}_{name}_{level}", np.concatenate([part[k] for part in parts]))
        attributes = {"kernel_shape": [size, size]} | ({"group": 16, "pads": [1] * 4} if step == "conv2" else {})
        inputs = [value, f"{step}_weight_{level}", f"{step}_bias_{level}"]
        value = f"{step}_{level}"
        nodes.append(new_node("Conv", value, inputs, attributes))
    add_tensor(graph, f"flat_{level}", np.array([0, 16, -1], np.int64))
    nodes.append(new_node("Reshape", f"cells_{level}", [value, f"flat_{level}"], {}))
    return nodes


def _remove_unused_constants(graph: Any) -> None:
    """Remove constants that no node reads, because ONNX Runtime warns about each."""
    read = {name for node in graph.node for name in node.input}
    kept = [copied(tensor) for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
