"""Reads TensorFlow 1 graphs without TensorFlow.

A frozen graph (`.pb`) is a GraphDef: operators by name, weights as Const nodes. Only what inference needs is followed:
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
MAX_NODES = 2**20  # far more than a face network has, its training included
MAX_VALUES = 2**28  # of all constants together: 1 GiB of float32
MAX_REPEATED = 2**22  # of one constant that repeats a value: it takes memory its file does not

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
BOOL = 10  # TensorFlow's number for the type of a truth value

_DTYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype("<f4"), "float_val"),
    3: (np.dtype("<i4"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
    BOOL: (np.dtype("?"), "bool_val"),
}

_IMAGES = ("input", "image_batch")  # where FaceNet graphs take their images; the first of them that a graph has
VARIABLES = ("VariableV2", "Variable", "VarHandleOp")
_SWITCHES = ("Switch", "RefSwitch")
_NO_RESULTS = ("Const", "Placeholder", "PlaceholderWithDefault", "NoOp", "Assert")
_MERGES = ("Merge", "RefMerge")

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
    try:
        return nodes_of(graph_of(data))
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{source}: not a TensorFlow frozen graph ({error})") from None


def graph_of(data: bytes) -> Any:
    """The GraphDef message of a file's bytes; `DecodeError` where they are none, `ValueError` where they hold too much."""
    check_message_count(data, _TENSORFLOW, "GraphDef")
    graph = GraphDef()
    graph.ParseFromString(data)
    return graph


def nodes_of(graph: Any) -> Graph:
    """The nodes of a GraphDef message by name; `ValueError` where bytes were read that are something else."""
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"it has {len(graph.node)} nodes")
    nodes = {node.name: node for node in graph.node}
    if not any(node.op for node in nodes.values()):
        raise ValueError("it has no nodes")
    return nodes


def new_node(name: str, op: str, inputs: Sequence[str] = ()) -> Any:
    """A NodeDef without attributes."""
    return GraphDef().node.add(name=name, op=op, input=inputs)


def new_constant(name: str, array: npt.NDArray[Any]) -> Any:
    """A Const node that holds `array`; `constant` gives it back."""
    node = new_node(name, "Const")
    tensor = node.attr.add(key="value").value.tensor
    tensor.dtype = next(number for number, (dtype, _) in _DTYPES.items() if dtype == array.dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = array.tobytes()
    return node


def _error(source: str, what: str) -> ModelError:
    """An error of one line, whatever the graph's names hold."""
    return ModelError(f"{source}: {plain_text(what)}")


def constant(node: Any, source: str) -> npt.NDArray[Any]:
    """The array of a Const node.

    A tensor is stored either as raw bytes or as a list of values, and a list shorter than the shape asks for
    repeats its last value.
    """
    tensor = attributes_of(node)["value"].tensor
    if tensor.dtype not in _DTYPES:
        raise _error(source, f"constant {node.name} has the unsupported type {tensor.dtype}")
    dtype, field = _DTYPES[tensor.dtype]
    shape = [int(dim.size) for dim in tensor.tensor_shape.dim]
    count = 1
    for size in shape:
        if size < 0 or (count := count * size) > MAX_VALUES:
            raise _error(source, f"constant {node.name} claims the shape {shape}")
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
    """A node's attributes by name."""
    return {entry.key: entry.value for entry in node.attr}


def images_node(graph: Graph) -> str | None:
    """The node that stands for the images: `input`, or `image_batch` in graphs that have no `input`."""
    return next((name for name in _IMAGES if name in graph), None)


def inputs_of(graph: Graph, node: Any, source: str) -> list[tuple[str, int]]:
    """(node, output number) of every value a node takes; control inputs (^name) carry none.

    The node of the images takes nothing: the queue that fed it in training is left out.
    """
    if node.name == images_node(graph):
        return []
    inputs = [_tensor(name) for name in node.input if not name.startswith("^")]
    for name, _ in inputs:
        if name not in graph:
            raise _error(source, f"{node.name} takes the missing node {name}")
    return inputs


def inference_graph(graph: Graph, output: str, source: str) -> Graph:
    """The nodes inference evaluates, inputs before users, as if the graph had never been trained.

    A Switch hands its data to one of its two outputs; whatever hangs on the other is dead, and a Merge takes the input
    that is alive. Which one that is must follow from constants and training flags (truth values the caller feeds, such
    as `phase_train`), and inference leaves every flag False. Both operators come back as an Identity, the images as a
    Placeholder. Raises `ModelError` where another thing decides, or an operator's second output is wanted.
    """
    output = output_node(graph, output, source)
    order = _evaluation_order(graph, output, source)
    dead, undecided = _dead_and_undecided(graph, order, source)

    if _is_dead((output, 0), dead):
        raise _error(source, f"{output} is computed only while training")
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
                f"{name} is decided by {decider.name} ({decider.op}), which is neither a constant nor a training flag",
            )
        inputs = inputs_of(graph, graph[name], source)
        data = inputs[:1] if graph[name].op in _SWITCHES else inputs
        needed[name] = [tensor for tensor in data if not _is_dead(tensor, dead)]
        for child, port in needed[name]:
            if port and graph[child].op not in _SWITCHES:
                raise _error(source, f"{name} takes output {port} of {child} ({graph[child].op}); only 0 is known")
            stack.append(child)
    return {name: _resolved(graph, name, needed[name], source) for name in order if name in needed}


def output_node(graph: Graph, wanted: str, source: str) -> str:
    """The node called `wanted`; else the only one called so in a scope, or the only end of a graph without variables.

    Importing a graph into another puts a scope before all its names, and not everybody calls features `embeddings`.
    Raises `ModelError` naming the ends there are.
    """
    if wanted in graph:
        return wanted
    named = [name for name in graph if name.rpartition("/")[2] == wanted]
    if len(named) == 1:
        return named[0]
    ends: list[str] = []
    if not any(node.op in VARIABLES for node in graph.values()):  # a graph as it was trained ends in many places
        used = {_tensor(name.removeprefix("^"))[0] for node in graph.values() for name in node.input}
        ends = [name for name, node in graph.items() if name not in used and node.op not in _NO_RESULTS]
    if len(ends) == 1:
        return ends[0]
    there = f"; it ends in {', '.join(sorted(ends)[:4])}" if ends else ""
    raise _error(source, f"no node called {wanted!r}, as the features of a FaceNet graph are{there}")


def _evaluation_order(graph: Graph, output: str, source: str) -> list[str]:
    """Names of all nodes that `output` may depend on, training or not, inputs before users."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False while its inputs are being visited, True when done
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
    """What tells a node in a branch of a condition that the branch is taken, where its inputs do not.

    A constant made there takes nothing, so TensorFlow hangs it by a control input on an Identity of the Switch.
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
    """The outputs that inference never fills (-1: all of a node), and the switches nobody can set, with their decider."""
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
    """A node's truth value in inference; None where it has none, or only running the graph would tell."""
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
    """The node as `inference_graph` gives it out; itself where nothing is to be changed."""
    node = graph[name]
    children = [child for child, _ in inputs]
    if name == images_node(graph):
        return node if node.op == "Placeholder" else new_node(name, "Placeholder")
    if node.op in (*_SWITCHES, *_MERGES):
        if len(children) != 1:
            raise _error(source, f"{node.op} {name} has {len(children)} inputs in inference, not one")
        return new_node(name, "Identity", children)
    if any(port for _, port in inputs):
        changed = new_node(name, node.op, children)
        changed.attr.extend(node.attr)
        return changed
    return node
