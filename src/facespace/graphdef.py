"""Reads TensorFlow 1 frozen graphs without TensorFlow.

A frozen graph (`.pb`) is a GraphDef: operators by name, weights as Const nodes. Only what inference needs is followed:
from the output backwards, with training switches (`phase_train`, Switch/Merge) resolved to their inference side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.errors import ModelError
from facespace.onnx_graph import message_class

MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_VALUES = 2**28  # of all constants together: 1 GiB of float32
MAX_REPEATED = 2**22  # of one constant that repeats a value: it takes memory its file does not

_TENSORFLOW = {
    "Dim": [("size", 1, "int64")],
    "Shape": [("dim", 2, "Dim*")],
    "Tensor": [
        ("dtype", 1, "int32"),
        ("tensor_shape", 2, "Shape"),
        ("tensor_content", 4, "bytes"),
        ("float_val", 5, "float*"),
        ("int_val", 7, "int32*"),
        ("int64_val", 10, "int64*"),
        ("bool_val", 11, "bool*"),
    ],
    "List": [("i", 3, "int64*")],
    "Value": [
        ("list", 1, "List"),
        ("s", 2, "bytes"),
        ("i", 3, "int64"),
        ("f", 4, "float"),
        ("b", 5, "bool"),
        ("type", 6, "int32"),
        ("tensor", 8, "Tensor"),
    ],
    "Attribute": [("key", 1, "string"), ("value", 2, "Value")],
    "Node": [("name", 1, "string"), ("op", 2, "string"), ("input", 3, "string*"), ("attr", 5, "Attribute*")],
    "GraphDef": [("node", 1, "Node*")],
}
GraphDef = message_class("facespace.tensorflow", _TENSORFLOW, "GraphDef")

_DTYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype("<f4"), "float_val"),
    3: (np.dtype("<i4"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
    10: (np.dtype("?"), "bool_val"),
}

IMAGES = "input"  # where every FaceNet graph takes its images

Graph = dict[str, Any]


def read_graph(path: str | Path) -> Graph:
    """The nodes of a frozen graph by name, in the file's order (which is not an order of evaluation)."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(f"{path}: {size} bytes, but a frozen graph has at most {MAX_BYTES}")
    return parse_graph(path.read_bytes(), str(path))


def parse_graph(data: bytes, source: str) -> Graph:
    """`read_graph` for bytes already in memory; `source` is named in errors."""
    graph = GraphDef()
    try:
        graph.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{source}: not a TensorFlow frozen graph ({error})") from None
    nodes = {node.name: node for node in graph.node}
    if not nodes or not any(node.op for node in graph.node):
        raise ModelError(f"{source}: not a TensorFlow frozen graph (it has no nodes)")
    return nodes


def constant(node: Any, source: str) -> npt.NDArray[Any]:
    """The array of a Const node.

    A tensor is stored either as raw bytes or as a list of values, and a list shorter than the shape asks for
    repeats its last value.
    """
    tensor = attributes_of(node)["value"].tensor
    if tensor.dtype not in _DTYPES:
        raise ModelError(f"{source}: constant {node.name} has the unsupported type {tensor.dtype}")
    dtype, field = _DTYPES[tensor.dtype]
    shape = [int(dim.size) for dim in tensor.tensor_shape.dim]
    count = 1
    for size in shape:
        if size < 0 or (count := count * size) > MAX_VALUES:
            raise ModelError(f"{source}: constant {node.name} claims the shape {shape}")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise ModelError(f"{source}: constant {node.name} of shape {shape} has {len(tensor.tensor_content)} bytes")
        content: npt.NDArray[Any] = np.frombuffer(tensor.tensor_content, dtype=dtype)
        return content.reshape(shape)
    values: npt.NDArray[Any] = np.asarray(getattr(tensor, field), dtype=dtype)
    if values.size == 0 and count:
        values = np.zeros(1, dtype=dtype)
    if values.size > count:
        raise ModelError(f"{source}: constant {node.name} of shape {shape} has {values.size} values")
    if values.size < count > MAX_REPEATED:
        raise ModelError(f"{source}: constant {node.name} repeats one value {count} times")
    if values.size < count:
        values = np.concatenate([values, np.full(count - values.size, values[-1])])
    return values.reshape(shape)


def _tensor(name: str) -> tuple[str, int]:
    node, _, port = name.partition(":")
    return node, int(port) if port.isdecimal() and len(port) < 10 else 0


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by name."""
    return {entry.key: entry.value for entry in node.attr}


def inputs_of(graph: Graph, node: Any, source: str) -> list[tuple[str, int]]:
    """(node, output number) of every value a node takes; control inputs (^name) carry none.

    Images enter at the node called `input`; the queue that fed it in training is left out.
    """
    if node.name == IMAGES:
        return []
    inputs = [_tensor(name) for name in node.input if not name.startswith("^")]
    for name, _ in inputs:
        if name not in graph:
            raise ModelError(f"{source}: {node.name} takes the missing node {name}")
    return inputs


def inference_order(graph: Graph, output: str, source: str) -> list[str]:
    """Names of the nodes inference evaluates, inputs before users.

    A Switch sends its data to output 1 when training; whatever hangs on that is dead here, and a Merge
    takes whichever input is alive.
    """
    order: list[str] = []
    state: dict[str, bool] = {}  # False while its inputs are being visited, True when done
    stack = [output]
    while stack:
        name = stack[-1]
        if name not in state:
            state[name] = False
            for child, _ in inputs_of(graph, graph[name], source):
                if child not in state:
                    stack.append(child)
                elif not state[child]:
                    raise ModelError(f"{source}: {name} and {child} depend on each other")
        else:
            stack.pop()
            if not state[name]:
                state[name] = True
                order.append(name)

    dead: set[tuple[str, int]] = set()
    for name in order:
        node = graph[name]
        flags = [tensor in dead for tensor in inputs_of(graph, node, source)]
        if node.op == "Switch":
            dead.add((name, 1))
        if flags and (all(flags) if node.op == "Merge" else any(flags)):
            dead.update((name, port) for port in range(8))
    if (output, 0) in dead:
        raise ModelError(f"{source}: {output} is computed only while training")

    needed = set()
    stack = [output]
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += [tensor[0] for tensor in inputs_of(graph, graph[name], source) if tensor not in dead]
    return [name for name in order if name in needed]
