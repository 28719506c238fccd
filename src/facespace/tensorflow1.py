"""Reads TensorFlow 1 frozen graphs without TensorFlow and translates them to ONNX.

A frozen graph (`.pb`) is a GraphDef: operators by name, weights as Const nodes. Only what inference needs
is translated: starting at the output, backwards. Training switches (`phase_train`, Switch/Merge) are
resolved to their inference side. Feature maps are kept as (N,C,H,W) inside, as the runtimes want them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from facespace.errors import ModelError
from facespace.onnx_graph import GraphBuilder, message_class

MAX_BYTES = 2**31 - 1  # protobuf's own limit for one message
MAX_VALUES = 2**28  # of one constant: 1 GiB of float32

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
_GraphDef = message_class("facespace.tensorflow", _TENSORFLOW, "GraphDef")

_DTYPES = {
    1: (np.dtype("<f4"), "float_val"),
    3: (np.dtype("<i4"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
    10: (np.dtype("?"), "bool_val"),
}

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
    graph = _GraphDef()
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
    tensor = _attributes(node)["value"].tensor
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
            raise ModelError(
                f"{source}: constant {node.name} of shape {shape} has {len(tensor.tensor_content)} bytes"
            )
        return np.frombuffer(tensor.tensor_content, dtype=dtype).reshape(shape)
    values = np.asarray(getattr(tensor, field), dtype=dtype)
    if values.size == 0 and count:
        values = np.zeros(1, dtype=dtype)
    if values.size > count:
        raise ModelError(f"{source}: constant {node.name} of shape {shape} has {values.size} values")
    if values.size < count:
        values = np.concatenate([values, np.full(count - values.size, values[-1])])
    return values.reshape(shape)


def to_onnx(graph: Graph, *, source: str, output: str = "embeddings") -> bytes:
    """An ONNX model of the inference path from the image placeholder to `output`.

    Its input is `images` (N,H,W,3) float32 as the graph's own placeholder wants them, its output `features`
    (N,D) float32. Raises `ModelError` naming the first operator that is not understood.
    """
    if output not in graph:
        raise ModelError(f"{source}: no node called {output!r}; a FaceNet graph ends in 'embeddings'")
    translation = _Translation(graph, source)
    for name in _needed(graph, output, source):
        translation.translate(graph[name])
    builder = translation.builder
    features = translation.transposed(translation.value(output), nchw=False)
    builder.output(features.name, "features", np.float32, ["n", "d"])
    return builder.serialize()


def _tensor(name: str) -> tuple[str, int]:
    node, _, port = name.partition(":")
    return node, int(port) if port.isdigit() else 0


def _attributes(node: Any) -> dict[str, Any]:
    return {entry.key: entry.value for entry in node.attr}


def _inputs(graph: Graph, node: Any, source: str) -> list[tuple[str, int]]:
    inputs = [_tensor(name) for name in node.input if not name.startswith("^")]
    for name, _ in inputs:
        if name not in graph:
            raise ModelError(f"{source}: {node.name} takes the missing node {name}")
    return inputs


def _needed(graph: Graph, output: str, source: str) -> list[str]:
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
            for child, _ in _inputs(graph, graph[name], source):
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
        flags = [tensor in dead for tensor in _inputs(graph, node, source)]
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
            stack += [tensor[0] for tensor in _inputs(graph, graph[name], source) if tensor not in dead]
    return [name for name in order if name in needed]


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of the ONNX graph, or something not yet written to it; maps are (N,C,H,W) when `nchw`.

    A constant waits as `array`, a convolution as `conv`: what scales and shifts its channels next is folded
    into its weights (`y = s·(k∗x + b) + t = (s·k)∗x + (s·b + t)`), and the runtime has one operator instead
    of three.
    """

    name: str
    nchw: bool = False
    array: npt.NDArray[Any] | None = None
    conv: _Conv | None = None


@dataclass(frozen=True, slots=True)
class _Conv:
    source: str
    kernel: npt.NDArray[np.float64]  # (out, in, height, width)
    bias: npt.NDArray[np.float64]  # (out,)
    attributes: dict[str, Any]

    def affine(self, scale: npt.NDArray[Any], shift: npt.NDArray[Any]) -> _Value:
        scale = np.broadcast_to(scale, self.bias.shape).astype(np.float64)
        kernel = self.kernel * scale[:, None, None, None]
        return _Value("", True, None, _Conv(self.source, kernel, self.bias * scale + shift, self.attributes))


class _Translation:
    """Turns nodes, in order of evaluation, into ONNX operators."""

    def __init__(self, graph: Graph, source: str) -> None:
        self.graph = graph
        self.source = source
        self.builder = GraphBuilder()
        self.values: dict[str, _Value] = {}
        self.has_images = False

    def value(self, name: str) -> _Value:
        return self.values[name]

    def translate(self, node: Any) -> None:
        handler = _HANDLERS.get(node.op)
        if handler is None:
            raise ModelError(f"{self.source}: operator {node.op} ({node.name}) is not supported")
        inputs = [self.values[name] for name, _ in _inputs(self.graph, node, self.source) if name in self.values]
        if node.op not in _FOLDING:
            inputs = [self.written(value) for value in inputs]
        try:
            self.values[node.name] = handler(self, node, inputs)
        except (IndexError, KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{self.source}: {node.op} {node.name} is malformed ({error})") from None

    def written(self, value: _Value) -> _Value:
        """`value` with its convolution, if one is waiting, written to the graph."""
        if value.conv is None:
            return value
        weights = [self.builder.constant(array.astype(np.float32)) for array in (value.conv.kernel, value.conv.bias)]
        return _Value(self.builder.node("Conv", [value.conv.source, *weights], **value.conv.attributes), nchw=True)

    def transposed(self, value: _Value, *, nchw: bool) -> _Value:
        value = self.written(value)
        if value.nchw == nchw:
            return value
        perm = [0, 3, 1, 2] if nchw else [0, 2, 3, 1]
        return _Value(self.builder.node("Transpose", [value.name], perm=perm), nchw)


def _array(value: _Value) -> npt.NDArray[Any]:
    if value.array is None:
        raise ValueError("a constant was expected, a computed value came")
    return value.array


def _placeholder(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    if t.has_images:
        raise ModelError(f"{t.source}: a second input, {node.name}, where one of images was expected")
    t.has_images = True
    name = t.builder.input("images", np.float32, ["n", "height", "width", 3])
    return t.transposed(_Value(name), nchw=True)


def _constant(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    return _Value("", array=constant(node, t.source))


def _window(node: Any, key: str) -> list[int]:
    sizes = [int(size) for size in _attributes(node)[key].list.i]
    if len(sizes) != 4 or sizes[0] != 1 or sizes[3] != 1:
        raise ValueError(f"{key} {sizes}")
    return sizes[1:3]


def _padding(node: Any) -> str:
    attributes = _attributes(node)
    if "data_format" in attributes and attributes["data_format"].s not in (b"", b"NHWC"):
        raise ValueError(f"data format {attributes['data_format'].s!r}")
    return {b"SAME": "SAME_UPPER", b"VALID": "VALID"}[attributes["padding"].s]


def _conv(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    x = t.transposed(inputs[0], nchw=True)
    kernel = _array(inputs[1]).transpose(3, 2, 0, 1).astype(np.float64)
    attributes = _attributes(node)
    if "dilations" in attributes and any(size != 1 for size in attributes["dilations"].list.i):
        raise ValueError("dilations")
    window = {"strides": _window(node, "strides"), "auto_pad": _padding(node)}
    return _Value("", True, None, _Conv(x.name, kernel, np.zeros(len(kernel)), window))


def _pool(op: str) -> Callable[[_Translation, Any, Sequence[_Value]], _Value]:
    def handler(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
        x = t.transposed(inputs[0], nchw=True)
        sizes = {"kernel_shape": _window(node, "ksize"), "strides": _window(node, "strides")}
        return _Value(t.builder.node(op, [x.name], auto_pad=_padding(node), **sizes), nchw=True)

    return handler


def _binary(op: str) -> Callable[[_Translation, Any, Sequence[_Value]], _Value]:
    def handler(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
        a, b = inputs
        if a.array is not None and b.array is not None:
            return _Value("", array=_FOLD[op](a.array, b.array))
        for conv, weights in ((a.conv, b.array), (b.conv, a.array)):
            if conv is not None and weights is not None and weights.ndim <= 1 and op in ("Add", "Mul"):
                return conv.affine(weights, 0) if op == "Mul" else conv.affine(np.ones(1), weights)
        a, b = t.written(a), t.written(b)
        if a.array is None and b.array is None and a.nchw != b.nchw:
            b = t.transposed(b, nchw=a.nchw)
        like = a if a.array is None else b
        names = [v.name if v.array is None else t.builder.constant(_broadcast(v.array, like)) for v in (a, b)]
        return _Value(t.builder.node(op, names), like.nchw)

    return handler


def _broadcast(array: npt.NDArray[Any], like: _Value) -> npt.NDArray[Any]:
    """A scalar, or a vector over channels, shaped to broadcast against `like`."""
    if like.nchw and array.ndim > 1:
        raise ValueError(f"a constant of shape {array.shape} beside a feature map")
    shape = (-1, 1, 1) if like.nchw and array.ndim == 1 else array.shape
    return np.ascontiguousarray(array.reshape(shape), np.float32)


_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
}


def _relu(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    return _Value(t.builder.node("Relu", [inputs[0].name]), inputs[0].nchw)


def _concat(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    axis = int(_array(inputs[-1]))
    maps = [t.transposed(value, nchw=True) for value in inputs[:-1]]
    if axis not in (3, -1):
        raise ValueError(f"axis {axis}, not the channels")
    return _Value(t.builder.node("Concat", [value.name for value in maps], axis=1), nchw=True)


def _reshape(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    """Reshape with the batch left free: freezing sometimes bakes the batch of one image into the shape."""
    shape = [int(size) for size in _array(inputs[1])]
    if inputs[0].array is not None:
        return _Value("", array=inputs[0].array.reshape(shape))
    if shape[0] == 1:
        shape[0] = 0  # in ONNX: as many as the input has
    x = t.transposed(inputs[0], nchw=False)
    return _Value(t.builder.node("Reshape", [x.name, t.builder.constant(np.array(shape, np.int64))]))


def _squeeze(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    attributes = _attributes(node)
    key = "squeeze_dims" if "squeeze_dims" in attributes else "axis"
    axes = [int(axis) for axis in attributes[key].list.i]
    x = t.transposed(inputs[0], nchw=False)
    return _Value(t.builder.node("Squeeze", [x.name, t.builder.constant(np.array(axes, np.int64))]))


def _matmul(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    attributes = _attributes(node)
    if any(key in attributes and attributes[key].b for key in ("transpose_a", "transpose_b")):
        raise ValueError("transposed operands")
    weights = t.builder.constant(np.ascontiguousarray(_array(inputs[1]), np.float32))
    return _Value(t.builder.node("MatMul", [inputs[0].name, weights]))


def _batch_norm(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    x = inputs[0]
    gamma, beta, mean, variance = (_array(value).astype(np.float64) for value in inputs[1:5])
    scale = gamma / np.sqrt(variance + float(_attributes(node)["epsilon"].f))
    shift = beta - mean * scale
    if x.conv is not None:
        return x.conv.affine(scale, shift)
    scaled = t.builder.node("Mul", [x.name, t.builder.constant(_broadcast(scale, x))])
    return _Value(t.builder.node("Add", [scaled, t.builder.constant(_broadcast(shift, x))]), x.nchw)


def _reduce(op: str) -> Callable[[_Translation, Any, Sequence[_Value]], _Value]:
    def handler(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
        x = t.transposed(inputs[0], nchw=False)
        axes = [int(axis) for axis in np.atleast_1d(_array(inputs[1]))]
        keep = int(_attributes(node)["keep_dims"].b)
        if op == "ReduceSum":  # opset 13 moved its axes from an attribute to an input
            return _Value(
                t.builder.node(op, [x.name, t.builder.constant(np.array(axes, np.int64))], keepdims=keep)
            )
        return _Value(t.builder.node(op, [x.name], axes=axes, keepdims=keep))

    return handler


def _square(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    return _Value(t.builder.node("Mul", [inputs[0].name, inputs[0].name]), inputs[0].nchw)


def _rsqrt(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    root = t.builder.node("Sqrt", [inputs[0].name])
    return _Value(t.builder.node("Reciprocal", [root]), inputs[0].nchw)


def _identity(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    return inputs[0]


def _training_switch(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    """`PlaceholderWithDefault`: `phase_train`, which inference leaves False, or images behind an Identity."""
    if inputs[0].array is not None and inputs[0].array.dtype == np.bool_:
        return _Value("", array=np.zeros((), np.bool_))
    return inputs[0]


_FOLDING = {"BiasAdd", "Add", "AddV2", "Mul", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"} | {
    "Identity",
    "Switch",
    "Merge",
}

_HANDLERS: dict[str, Callable[[_Translation, Any, Sequence[_Value]], _Value]] = {
    "Placeholder": _placeholder,
    "PlaceholderWithDefault": _training_switch,
    "Const": _constant,
    "Identity": _identity,
    "Switch": _identity,
    "Merge": _identity,
    "Conv2D": _conv,
    "MaxPool": _pool("MaxPool"),
    "AvgPool": _pool("AveragePool"),
    "BiasAdd": _binary("Add"),
    "Add": _binary("Add"),
    "AddV2": _binary("Add"),
    "Sub": _binary("Sub"),
    "Mul": _binary("Mul"),
    "RealDiv": _binary("Div"),
    "Maximum": _binary("Max"),
    "Relu": _relu,
    "ConcatV2": _concat,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "MatMul": _matmul,
    "FusedBatchNorm": _batch_norm,
    "FusedBatchNormV2": _batch_norm,
    "FusedBatchNormV3": _batch_norm,
    "Square": _square,
    "Sum": _reduce("ReduceSum"),
    "Mean": _reduce("ReduceMean"),
    "Rsqrt": _rsqrt,
}
