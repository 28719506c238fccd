"""Reads TensorFlow 1 graphs without TensorFlow.

A frozen graph (`.pb`) is a GraphDef: operators by name, weights as Const nodes. Only the nodes of inference are followed,
from the output backwards, with training switches (`phase_train`, Switch/Merge) resolved to their inference side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.errors import ModelError
from facespace.io.protobuf import check_message_count, message_class
from facespace.io.text import plain_text

MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_NODES = 2**20  # far more than a face network has, including its training
MAX_VALUES = 2**28  # numbers in all constants together: 1 GiB of float32
MAX_REPEATED = 2**22  # numbers in one constant that repeats a value, which takes more memory than its file

_TENSORFLOW = {
    "Dim": [("size", 1, "int64")],
    "Shape": [("dim", 2, "Dim*"), ("unknown_rank", 3, "bool")],
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
        ("shape", 7, "Shape"),
        ("tensor", 8, "Tensor"),
    ],
    "Attribute": [("key", 1, "string"), ("value", 2, "Value")],
    "Node": [("name", 1, "string"), ("op", 2, "string"), ("input", 3, "string*"), ("attr", 5, "Attribute*")],
    "GraphDef": [("node", 1, "Node*")],
}
GraphDef = message_class("facespace.tensorflow", _TENSORFLOW, "GraphDef")
BOOL = 10  # TensorFlow's number for the type bool

_DTYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype("<f4"), "float_val"),
    3: (np.dtype("<i4"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
    BOOL: (np.dtype("?"), "bool_val"),
}

_IMAGES = ("input", "image_batch")  # image inputs of FaceNet graphs; the first one that a graph has is used
VARIABLES = ("VariableV2", "Variable", "VarHandleOp")
_SWITCHES = ("Switch", "RefSwitch")
_NO_RESULTS = ("Const", "Placeholder", "PlaceholderWithDefault", "NoOp", "Assert")
_MERGES = ("Merge", "RefMerge")

Graph = dict[str, Any]


def read_graph(path: str | Path) -> Graph:
    """Return the nodes of a frozen graph by name, in the file's order (which is not an order of evaluation)."""
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(f"{path}: a frozen graph must have at most {MAX_BYTES} bytes, got {size}")
    return parse_graph(path.read_bytes(), str(path))


def parse_graph(data: bytes, source: str) -> Graph:
    """Parse the bytes of a frozen graph like `read_graph`; errors name `source`."""
    try:
        return nodes_of(graph_of(data))
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{source}: not a TensorFlow frozen graph ({error})") from None


def graph_of(data: bytes) -> Any:
    """Parse bytes as a GraphDef; raises `DecodeError` if they are not one, `ValueError` if it has too many messages."""
    check_message_count(data, _TENSORFLOW, "GraphDef")
    graph = GraphDef()
    graph.ParseFromString(data)
    return graph


def nodes_of(graph: Any) -> Graph:
    """Return the nodes of a GraphDef message by name; raises `ValueError` for too many nodes or no operators."""
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"it has {len(graph.node)} nodes")
    nodes = {node.name: node for node in graph.node}
    if not any(node.op for node in nodes.values()):
        raise ValueError("it has no nodes")
    return nodes


def new_node(name: str, op: str, inputs: Sequence[str] = ()) -> Any:
    """Return a NodeDef without attributes."""
    return GraphDef().node.add(name=name, op=op, input=inputs)


def new_constant(name: str, array: npt.NDArray[Any]) -> Any:
    """Return a Const node that contains `array`, as `constant` reads it."""
    node = new_node(name, "Const")
    tensor = node.attr.add(key="value").value.tensor
    tensor.dtype = next(number for number, (dtype, _) in _DTYPES.items() if dtype == array.dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = array.tobytes()
    return node


def _error(source: str, what: str) -> ModelError:
    """Return an error whose message is one line, even if names in the graph contain line breaks."""
    return ModelError(f"{source}: {plain_text(what)}")


def constant(node: Any, source: str) -> npt.NDArray[Any]:
    """Return the array of a Const node.

    A tensor is stored either as raw bytes or as a list of values. If the list is shorter than the shape requires, its last
    value is repeated. Raises `ModelError`, which names `source`.
    """
    tensor = attributes_of(node)["value"].tensor
    if tensor.dtype not in _DTYPES:
        raise _error(source, f"constant {node.name} has the unsupported type {tensor.dtype}")
    dtype, field = _DTYPES[tensor.dtype]
    shape = [int(dim.size) for dim in tensor.tensor_shape.dim]
    count = 1
    for size in shape:
        if size < 0 or (count := count * size) > MAX_VALUES:
            raise _error(source, f"constant {node.name} has the invalid shape {shape}")
    if tensor.tensor_content:
        if len(tensor.tensor_content) != count * dtype.itemsize:
            raise _error(source, f"constant {node.name} of shape {shape} has {len(tensor.tensor_content)} bytes")
        content: npt.NDArray[Any] = np.frombuffer(tensor.tensor_content, dtype=dtype)
        return content.reshape(shape)
    values: npt.NDArray[Any] = np.asarray(getattr(tensor, field), dtype=dtype)
    if values.size == 0 and count:
        values = np.zeros(1, dtype=dtype)
    if values.size > count:
        raise _error(source, f"constant {node.name} of shape {shape} has {values.size} values")
    if values.size < count > MAX_REPEATED:
        raise _error(source, f"constant {node.name} repeats one value {count} times")
    if values.size < count:
        values = np.concatenate([values, np.full(count - values.size, values[-1])])
    return values.reshape(shape)


def _tensor(name: str) -> tuple[str, int]:
    node, _, port = name.partition(":")
    return node, int(port) if port.isdecimal() and len(port) < 10 else 0


def attributes_of(node: Any) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {entry.key: entry.value for entry in node.attr}


def images_node(graph: Graph) -> str | None:
    """Return the name of the node that provides the images: `input`, else `image_batch`; None if neither exists."""
    return next((name for name in _IMAGES if name in graph), None)


def inputs_of(graph: Graph, node: Any, source: str) -> list[tuple[str, int]]:
    """Return (node, output number) for every input of a node, without control inputs (^name).

    The node that provides the images counts as having no inputs, because these are the queue that fed it in training.
    """
    if node.name == images_node(graph):
        return []
    inputs = [_tensor(name) for name in node.input if not name.startswith("^")]
    for name, _ in inputs:
        if name not in graph:
            raise _error(source, f"the input {name} of {node.name} is missing")
    return inputs


def inference_graph(graph: Graph, output: str, source: str) -> Graph:
    """Return the nodes that inference evaluates, each after its inputs; nodes used only in training are left out.

    A Switch passes its data to one of its two outputs. Nodes behind the other output are dead, and a Merge takes the
    input that is alive. The choice must follow from constants and training flags (booleans that the caller feeds, such as
    `phase_train`); in inference every flag is False. Each Switch and Merge becomes an Identity, and the node that
    provides the images becomes a Placeholder. Raises `ModelError` if a choice depends on anything else, or if the
    second output of another operator is needed.
    """
    output = output_node(graph, output, source)
    order = _evaluation_order(graph, output, source)
    dead, undecided = _dead_and_undecided(graph, order, source)

    if _is_dead((output, 0), dead):
        raise _error(source, f"{output} is computed only in training")
    needed: dict[str, list[tuple[str, int]]] = {}
    stack = [output]
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        if name in undecided:
            decider = graph[undecided[name]]
            raise _error(
                source,
                f"{name} depends on {decider.name} ({decider.op}), which is neither a constant nor a training flag",
            )
        inputs = inputs_of(graph, graph[name], source)
        data = inputs[:1] if graph[name].op in _SWITCHES else inputs
        needed[name] = [tensor for tensor in data if not _is_dead(tensor, dead)]
        for child, port in needed[name]:
            if port and graph[child].op not in _SWITCHES:
                raise _error(source, f"{name} uses output {port} of {child} ({graph[child].op}); only 0 is supported")
            stack.append(child)
    return {name: _resolved(graph, name, needed[name], source) for name in order if name in needed}


def output_node(graph: Graph, name: str, source: str) -> str:
    """Return the name of the output node: `name`, else the only node `…/name`, else the graph's only end.

    Importing a graph into another one adds a scope to all its names, and some graphs use a name other than `embeddings`.
    An end is a node that no node reads; ends are only considered in a graph without variables. Raises `ModelError` if
    none of the three exists; the message lists up to four ends.
    """
    if name in graph:
        return name
    scoped = [node for node in graph if node.rpartition("/")[2] == name]
    if len(scoped) == 1:
        return scoped[0]
    ends: list[str] = []
    if not any(node.op in VARIABLES for node in graph.values()):  # a graph with its training has many ends
        used = {_tensor(value.removeprefix("^"))[0] for node in graph.values() for value in node.input}
        ends = [end for end, node in graph.items() if end not in used and node.op not in _NO_RESULTS]
    if len(ends) == 1:
        return ends[0]
    there = f"; its ends are {', '.join(sorted(ends)[:4])}" if ends else ""
    raise _error(source, f"no node is called {name!r}, the usual name of a FaceNet graph's features{there}")


def _evaluation_order(graph: Graph, output: str, source: str) -> list[str]:
    """Return the nodes that `output` may depend on, in inference or training, each after its inputs."""
    order: list[str] = []
    state: dict[str, bool] = {}  # by node: False while its inputs are being visited, then True
    stack = [output]
    while stack:
        name = stack[-1]
        if name not in state:
            state[name] = False
            inputs = [child for child, _ in inputs_of(graph, graph[name], source)]
            for child in inputs + _pivots(graph, graph[name]):
                if child not in state:
                    stack.append(child)
                elif not state[child]:
                    raise _error(source, f"{name} and {child} depend on each other")
        else:
            stack.pop()
            if not state[name]:
                state[name] = True
                order.append(name)
    return order


def _pivots(graph: Graph, node: Any) -> list[str]:
    """Return the control inputs that tie a node to a branch of a condition.

    A constant in a branch has no data inputs, so TensorFlow gives it a control input: an Identity that reads a Switch.
    """
    pivots = []
    for name in (entry[1:] for entry in node.input if entry.startswith("^")):
        pivot = graph.get(name)
        if pivot is not None and pivot.op == "Identity" and pivot.input:
            switch = graph.get(_tensor(pivot.input[0])[0])
            if switch is not None and switch.op in _SWITCHES:
                pivots.append(name)
    return pivots


def _dead_and_undecided(graph: Graph, order: list[str], source: str) -> tuple[set[tuple[str, int]], dict[str, str]]:
    """Return the dead outputs, and the condition of each Switch whose branch cannot be decided.

    Dead outputs are those that inference never computes: (node, output number), where −1 means all outputs of the node.
    """
    dead: set[tuple[str, int]] = set()
    undecided: dict[str, str] = {}
    truths: dict[str, bool | None] = {}
    for name in order:
        node = graph[name]
        inputs = inputs_of(graph, node, source)
        truths[name] = _truth(node, [truths[child] for child, _ in inputs], source)
        gone = [_is_dead(tensor, dead) for tensor in inputs]
        if node.op in _SWITCHES:
            if len(inputs) != 2:
                raise _error(source, f"{node.op} {name} is malformed ({len(inputs)} inputs)")
            decider = inputs[1][0]
            taken = truths[decider]
            if taken is None:
                undecided[name] = decider
            else:
                dead.add((name, 0 if taken else 1))
        cut_off = any((pivot, -1) in dead for pivot in _pivots(graph, node))
        if cut_off or (gone and (all(gone) if node.op in _MERGES else any(gone))):
            dead.add((name, -1))
    return dead, undecided


def _is_dead(tensor: tuple[str, int], dead: set[tuple[str, int]]) -> bool:
    return tensor in dead or (tensor[0], -1) in dead


def _truth(node: Any, of_inputs: list[bool | None], source: str) -> bool | None:
    """Return a node's boolean in inference; None if it is not a boolean or can only be found by running the graph."""
    if node.op == "Const":
        value = attributes_of(node).get("value")
        if value is not None and value.tensor.dtype == BOOL:
            array = constant(node, source)
            return bool(array) if array.ndim == 0 else None
    elif node.op in ("Placeholder", "PlaceholderWithDefault"):
        dtype = attributes_of(node).get("dtype")
        if (dtype is not None and dtype.type == BOOL) or any(truth is not None for truth in of_inputs):
            return False
    elif node.op == "LogicalNot" and len(of_inputs) == 1 and of_inputs[0] is not None:
        return not of_inputs[0]
    elif node.op in ("LogicalAnd", "LogicalOr") and len(of_inputs) == 2:
        decisive = node.op == "LogicalOr"
        return decisive if decisive in of_inputs else (None if None in of_inputs else not decisive)
    elif node.op in ("Identity", *_SWITCHES) and of_inputs:
        return of_inputs[0]
    return None


def _resolved(graph: Graph, name: str, inputs: list[tuple[str, int]], source: str) -> Any:
    """Return the node that replaces `name` in the result of `inference_graph`; most nodes stay unchanged."""
    node = graph[name]
    children = [child for child, _ in inputs]
    if name == images_node(graph):
        return node if node.op == "Placeholder" else new_node(name, "Placeholder")
    if node.op in (*_SWITCHES, *_MERGES):
        if len(children) != 1:
            raise _error(source, f"{node.op} {name} must have one input in inference, got {len(children)}")
        return new_node(name, "Identity", children)
    if any(port for _, port in inputs):
        changed = new_node(name, node.op, children)
        changed.attr.extend(node.attr)
        return changed
    return node
