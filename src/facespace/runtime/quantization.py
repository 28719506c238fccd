"""Converts convolutions to 8-bit integers where that hardly changes an embedding.

Processors with bfloat16 multiply 8-bit integers twice as fast. The inputs of a convolution are then rounded to 256
steps of a range, so the range must be known. Tables of ranges are shipped, made by `benchmarks/activation_ranges.py`
from real crops; they omit convolutions that would lose too much accuracy for the time gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec
from facespace.formats.onnx_model import add_tensor, new_node, parse_model, read_tensor
from facespace.io.package_files import json_tables

Ranges = tuple[float | None, ...]


def find(fingerprint: str, spec: InputSpec) -> Ranges | None:
    """Return the ranges that `quantize` takes, for the weights with this SHA-256 and for this input spec.

    Returns None if they were not measured.
    """
    for table in json_tables("facespace.runtime", "activation_ranges"):
        if table["fingerprint"] == fingerprint and table["input_spec"] == spec.as_dict():
            return tuple(table["ranges"])
    return None


def quantize(model: bytes, ranges: Sequence[float | None], *, source: str) -> bytes:
    """Return the ONNX `model` with 8-bit integers in the convolutions that have a range, in the order of the graph.

    The input of a convolution, from 0 to its range r, is rounded to q·r/255 with q of uint8; larger values are clipped.
    Each output channel's weights, at most m in magnitude, are rounded to q·m/127 with q of int8. Inputs must not be
    negative: they are outputs of Relu. The file stores this as QuantizeLinear and DequantizeLinear around float32
    convolutions, which a runtime computes in integers. Raises `ModelError` unless the graph has one convolution of
    constant weights for every range.

    >>> from facespace.formats.onnx_model import GraphBuilder
    >>> graph = GraphBuilder()
    >>> x = graph.input("x", np.float32, ["n", 1, 1, 1])
    >>> kernel = graph.constant(np.ones((1, 1, 1, 1), np.float32))
    >>> graph.output(graph.node("Conv", [x, kernel]), "y", np.float32, ["n", 1, 1, 1])
    >>> [node.op_type for node in parse_model(quantize(graph.serialize(), [2.0], source="x"), "x").graph.node]
    ['QuantizeLinear', 'DequantizeLinear', 'DequantizeLinear', 'Conv', 'Identity']
    """
    parsed = parse_model(model, source)
    graph = parsed.graph
    n_convolutions = sum(node.op_type == "Conv" for node in graph.node)
    if n_convolutions != len(ranges):
        raise ModelError(f"{source}: {len(ranges)} ranges for {n_convolutions} convolutions")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    # Several convolutions may share an input or weights.
    maps: dict[tuple[str, float], str] = {}
    kernels: dict[str, str] = {}
    waiting = iter(ranges)
    for node in graph.node:
        at = next(waiting) if node.op_type == "Conv" else None
        if at is not None:
            x, kernel = node.input[:2]
            if (x, at) not in maps:
                maps[x, at] = f"{x}_rounded_{len(maps)}"
                nodes += _through_integers(graph, x, maps[x, at], at)
            if kernel not in kernels:
                if kernel not in tensors:
                    raise ModelError(f"{source}: the weights of {node.name} are computed, not constant")
                kernels[kernel] = f"{kernel}_rounded"
                nodes.append(_from_integers(graph, read_tensor(tensors[kernel], source), kernels[kernel]))
            node.input[0], node.input[1] = maps[x, at], kernels[kernel]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    needed = {name for node in nodes for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    data: bytes = parsed.SerializeToString()
    return data


def _through_integers(graph: Any, x: str, name: str, at: float) -> list[Any]:
    """Return nodes that round the value `x`, from 0 to `at`, to 256 steps."""
    add_tensor(graph, f"{name}_scale", np.array(at / 255, np.float32))
    add_tensor(graph, f"{name}_zero", np.array(0, np.uint8))
    by = [f"{name}_scale", f"{name}_zero"]
    return [
        new_node("QuantizeLinear", f"{name}_uint8", [x, *by], {}),
        new_node("DequantizeLinear", name, [f"{name}_uint8", *by], {}),
    ]


def _from_integers(graph: Any, kernel: npt.NDArray[Any], name: str) -> Any:
    """Return a node that produces `kernel` (out,in,h,w) from integers from −127 to 127, scaled per output channel."""
    largest = np.abs(kernel).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    add_tensor(graph, f"{name}_int8", np.rint(kernel / scale[:, None, None, None]).astype(np.int8))
    add_tensor(graph, f"{name}_scale", scale)
    add_tensor(graph, f"{name}_zero", np.zeros(len(scale), np.int8))
    return new_node("DequantizeLinear", name, [f"{name}_{part}" for part in ("int8", "scale", "zero")], {"axis": 0})
