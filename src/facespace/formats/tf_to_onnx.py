"""Translates TensorFlow 1 graphs to ONNX, operator by operator.

Feature maps are (N,C,H,W) internally, because the runtimes need that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.formats.onnx_model import GraphBuilder
from facespace.formats.tf_graph import (
    BOOL,
    MAX_VALUES,
    VARIABLES,
    Graph,
    attributes_of,
    constant,
    inference_graph,
    inputs_of,
    output_node,
)
from facespace.io.text import plain_text

_INT64_MAX = 2**63 - 1
_EPSILON = 1e-4  # TensorFlow's default for a fused batch norm, if a file omits it


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the ONNX graph, or one that is not written to it yet; feature maps are (N,C,H,W) if `nchw`.

    A constant is kept as `array`, and a convolution as `conv`, until it is needed. Operators that scale and shift the
    channels of a convolution are folded into its weights (`y = s·(k∗x + b) + t = (s·k)∗x + (s·b + t)`), so that the
    runtime has one operator instead of three. `sizes` marks int64 numbers computed from a tensor's shape. `width` is D,
    if known, for a tensor of shape (N,D) and for the shape of that tensor.
    """

    name: str
    nchw: bool = False
    sizes: bool = False
    array: npt.NDArray[Any] | None = None
    conv: Conv | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of the ONNX value `source` that is not written to the graph yet."""

    source: str
    kernel: npt.NDArray[np.float64]  # (out, in, height, width)
    bias: npt.NDArray[np.float64]  # (out,)
    attributes: dict[str, Any]

    def affine(self, scale: npt.NDArray[Any], shift: npt.NDArray[Any]) -> Value:
        """Return this convolution with output `y·scale + shift`; each is one number, or one per output channel."""
        scale = np.broadcast_to(scale, self.bias.shape).astype(np.float64)
        kernel = self.kernel * scale[:, None, None, None]
        return Value("", True, conv=Conv(self.source, kernel, self.bias * scale + shift, self.attributes))


class Translation:
    """The state of a translation: the ONNX graph under construction and the values of the nodes translated so far."""

    def __init__(self, graph: dict[str, Any], source: str) -> None:
        self.graph = graph
        self.source = source
        self.builder = GraphBuilder()
        self.values: dict[str, Value] = {}
        self.n_values = 0  # numbers in all constants so far
        self.has_images = False
        self.batch = -1  # batch size, if the placeholder fixes it

    def written(self, value: Value) -> Value:
        """Return `value` after writing its pending convolution, if any, to the graph."""
        if value.conv is None:
            return value
        weights = [self.builder.constant(array.astype(np.float32)) for array in (value.conv.kernel, value.conv.bias)]
        return Value(self.builder.node("Conv", [value.conv.source, *weights], **value.conv.attributes), nchw=True)

    def transposed(self, value: Value, *, nchw: bool) -> Value:
        """Write and return `value`, channels second (`nchw`) or last. Raises `ValueError` for constants and sizes."""
        value = self.written(value)
        if value.array is not None or value.sizes:
            raise ValueError("expected feature maps, got a constant")
        if value.nchw == nchw:
            return value
        perm = [0, 3, 1, 2] if nchw else [0, 2, 3, 1]
        return Value(self.builder.node("Transpose", [value.name], perm=perm), nchw)


def array_of(value: Value) -> npt.NDArray[Any]:
    """Return the array of a constant; raises `ValueError` for anything else."""
    if value.array is None:
        raise ValueError("expected a constant, got a computed value")
    return value.array


@np.errstate(all="ignore")  # damaged weights may overflow when they are folded
def to_onnx(graph: Graph, *, source: str, output: str = "embeddings") -> bytes:
    """Return an ONNX model that computes what `graph` computes in inference, from its image placeholder to `output`.

    The model's input is `images` (N,H,W,3) float32, preprocessed as for the placeholder; its output is `features` (N,D)
    float32. Raises `ModelError`, which names the first operator that is not supported.
    """
    output = output_node(graph, output, source)
    translation = Translation(inference_graph(graph, output, source), source)
    for node in translation.graph.values():
        translation.values[node.name] = _translated(translation, node)
    builder = translation.builder
    value = translation.values[output]
    if value.array is not None or value.sizes:
        raise ModelError(f"{source}: the output {plain_text(output)} does not depend on the images")
    features = translation.transposed(value, nchw=False)
    builder.output(features.name, "features", np.float32, ["n", value.width or "d"])
    return builder.serialize()


def _translated(t: Translation, node: Any) -> Value:
    handler = _HANDLERS.get(node.op)
    if handler is None:
        operator = plain_text(f"{node.op} ({node.name})")
        if node.op in VARIABLES:
            raise ModelError(
                f"{t.source}: the graph has no weights, such as {operator}; give the folder of its checkpoint, or a frozen "
                "graph"
            )
        raise ModelError(f"{t.source}: operator {operator} is not supported")
    inputs = [t.values[name] for name, _ in inputs_of(t.graph, node, t.source)]
    if node.op not in _FOLDING:
        inputs = [t.written(value) for value in inputs]
    try:
        return handler(t, node, inputs)
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{t.source}: {plain_text(f'{node.op} {node.name} is malformed ({error})')}") from None


def _placeholder(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    attributes = attributes_of(node)
    if "dtype" in attributes and attributes["dtype"].type == BOOL:
        return Value("", array=np.zeros((), np.bool_))  # `phase_train` of FaceNet's trainer
    if t.has_images:
        raise ModelError(f"{t.source}: expected images as the only input, got a second one, {plain_text(node.name)}")
    t.has_images = True
    if "shape" in attributes and len(sizes := attributes["shape"].shape.dim) == 4:
        t.batch = int(sizes[0].size)
    name = t.builder.input("images", np.float32, ["n", "height", "width", 3])
    return t.transposed(Value(name), nchw=True)


def _constant(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    array = constant(node, t.source)
    _count(t, array.size)
    return Value("", array=array)


def _count(t: Translation, n_values: int) -> None:
    """Count `n_values` more numbers in constants; raise `ModelError` if all constants together have too many.

    Computed constants count too, because a few nodes can double their size repeatedly.
    """
    t.n_values += n_values
    if t.n_values > MAX_VALUES:
        raise ModelError(f"{t.source}: its constants have more than {MAX_VALUES} values")


def _window(node: Any, key: str) -> list[int]:
    sizes = [int(size) for size in attributes_of(node)[key].list.i]
    if len(sizes) != 4 or sizes[0] != 1 or sizes[3] != 1:
        raise ValueError(f"{key} {sizes}")
    return sizes[1:3]


def _padding(node: Any) -> str:
    attributes = attributes_of(node)
    if "data_format" in attributes and attributes["data_format"].s not in (b"", b"NHWC"):
        raise ValueError(f"data format {attributes['data_format'].s!r}")
    return {b"SAME": "SAME_UPPER", b"VALID": "VALID"}[attributes["padding"].s]


def _conv(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    x = t.transposed(inputs[0], nchw=True)
    kernel = array_of(inputs[1]).transpose(3, 2, 0, 1).astype(np.float64)
    attributes = attributes_of(node)
    if "dilations" in attributes and any(size != 1 for size in attributes["dilations"].list.i):
        raise ValueError("dilations")
    window = {"strides": _window(node, "strides"), "auto_pad": _padding(node)}
    return Value("", True, conv=Conv(x.name, kernel, np.zeros(len(kernel)), window))


def _pool(op: str) -> Callable[[Translation, Any, Sequence[Value]], Value]:
    def handler(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
        x = t.transposed(inputs[0], nchw=True)
        sizes = {"kernel_shape": _window(node, "ksize"), "strides": _window(node, "strides")}
        return Value(t.builder.node(op, [x.name], auto_pad=_padding(node), **sizes), nchw=True)

    return handler


def _binary(op: str) -> Callable[[Translation, Any, Sequence[Value]], Value]:
    def handler(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
        a, b = inputs
        if a.array is not None and b.array is not None:
            _count(t, math.prod(np.broadcast_shapes(a.array.shape, b.array.shape)))
            return Value("", array=_FOLD[op](a.array, b.array))
        for conv, weights in ((a.conv, b.array), (b.conv, a.array)):
            if conv is not None and weights is not None and weights.ndim <= 1 and op in ("Add", "Mul"):
                return conv.affine(weights, np.zeros(1)) if op == "Mul" else conv.affine(np.ones(1), weights)
        a, b = (v if v.array is not None else t.transposed(v, nchw=v.nchw) for v in (a, b))
        if a.array is None and b.array is None and a.nchw != b.nchw:
            b = t.transposed(b, nchw=a.nchw)
        like = a if a.array is None else b
        names = [v.name if v.array is None else t.builder.constant(_broadcast(v.array, like)) for v in (a, b)]
        return Value(t.builder.node(op, names), like.nchw, width=a.width or b.width)

    return handler


def _broadcast(array: npt.NDArray[Any], like: Value) -> npt.NDArray[Any]:
    """Return a constant in a shape that broadcasts against `like`; a vector has one number per channel."""
    if like.nchw and array.ndim > 1:
        raise ValueError(f"a constant of shape {array.shape} with a feature map")
    shape = (-1, 1, 1) if like.nchw and array.ndim == 1 else array.shape
    return np.ascontiguousarray(array.reshape(shape), np.float32)


_FOLD: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
}


def _unary(function: Callable[[Any], Any], *ops: str) -> Callable[[Translation, Any, Sequence[Value]], Value]:
    """Return a handler that applies `function` to a constant input, or else writes ONNX's `ops` in sequence."""

    def handler(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
        x = inputs[0]
        if x.array is not None:
            result = np.asarray(function(x.array), x.array.dtype)
            if not np.isfinite(result).all():
                raise ValueError("a constant that is not finite")
            return Value("", array=result)
        name = t.transposed(x, nchw=x.nchw).name
        for op in ops:
            name = t.builder.node(op, [name, name] if op == "Mul" else [name])
        return Value(name, x.nchw, width=x.width)

    return handler


def _concat(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    axis = int(array_of(inputs[-1]))
    if all(value.array is not None for value in inputs[:-1]):  # a constant weight stored in parts
        parts = [array_of(value) for value in inputs[:-1]]
        _count(t, sum(part.size for part in parts))
        return Value("", array=np.concatenate(parts, axis))
    if any(value.sizes for value in inputs) and axis == 0:
        return Value(t.builder.node("Concat", [_sizes(t, value) for value in inputs[:-1]], axis=0), sizes=True)
    maps = [t.transposed(value, nchw=True) for value in inputs[:-1]]
    if axis not in (3, -1):
        raise ValueError(f"axis {axis}, not the channels")
    return Value(t.builder.node("Concat", [value.name for value in maps], axis=1), nchw=True)


def _axis_first_concat(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    return _concat(t, node, [*inputs[1:], inputs[0]])


def _reshape(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    """Reshape for any batch size, even if the shape in a frozen graph begins with 1 or the placeholder's batch size."""
    if inputs[1].sizes:
        x = t.transposed(inputs[0], nchw=False)
        return Value(t.builder.node("Reshape", [x.name, inputs[1].name]), width=inputs[1].width)
    shape = [int(size) for size in array_of(inputs[1])]
    if inputs[0].array is not None:
        return Value("", array=inputs[0].array.reshape(shape))
    if shape[0] in (1, t.batch):
        shape[0] = 0  # in ONNX: the size of the input
    x = t.transposed(inputs[0], nchw=False)
    width = shape[1] if len(shape) == 2 and shape[1] > 0 else None
    return Value(t.builder.node("Reshape", [x.name, t.builder.constant(np.array(shape, np.int64))]), width=width)


def _squeeze(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    attributes = attributes_of(node)
    key = "squeeze_dims" if "squeeze_dims" in attributes else "axis"
    axes = [int(axis) for axis in attributes[key].list.i]
    x = t.transposed(inputs[0], nchw=False)
    return Value(t.builder.node("Squeeze", [x.name, t.builder.constant(np.array(axes, np.int64))]))


def _matmul(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    attributes = attributes_of(node)
    if any(key in attributes and attributes[key].b for key in ("transpose_a", "transpose_b")):
        raise ValueError("transposed operands")
    weights = np.ascontiguousarray(array_of(inputs[1]), np.float32)
    x = t.transposed(inputs[0], nchw=False)
    return Value(t.builder.node("MatMul", [x.name, t.builder.constant(weights)]), width=weights.shape[1])


def _batch_norm(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    attributes = attributes_of(node)
    if "is_training" not in attributes or attributes["is_training"].b:  # TensorFlow's default is True
        raise ValueError("it normalises by the current batch; only moving averages are supported")
    x = inputs[0]
    gamma, beta, mean, variance = (array_of(value).astype(np.float64) for value in inputs[1:5])
    variance = variance + (float(attributes["epsilon"].f) if "epsilon" in attributes else _EPSILON)
    if not (variance > 0).all():
        raise ValueError("a variance that is not positive")
    scale = gamma / np.sqrt(variance)
    shift = beta - mean * scale
    if x.conv is not None:
        return x.conv.affine(scale, shift)
    x = t.transposed(x, nchw=x.nchw)
    scaled = t.builder.node("Mul", [x.name, t.builder.constant(_broadcast(scale, x))])
    return Value(t.builder.node("Add", [scaled, t.builder.constant(_broadcast(shift, x))]), x.nchw, width=x.width)


def _reduce(op: str) -> Callable[[Translation, Any, Sequence[Value]], Value]:
    def handler(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
        x = t.transposed(inputs[0], nchw=False)
        axes = [int(axis) for axis in np.atleast_1d(array_of(inputs[1]))]
        attributes = attributes_of(node)
        keep = int("keep_dims" in attributes and attributes["keep_dims"].b)
        if op == "ReduceSum":  # opset 13 moved its axes from an attribute to an input
            return Value(t.builder.node(op, [x.name, t.builder.constant(np.array(axes, np.int64))], keepdims=keep))
        return Value(t.builder.node(op, [x.name], axes=axes, keepdims=keep))

    return handler


# Sizes: graphs compute with them to flatten feature maps, or to restore the shape after a batch norm.


def _sizes(t: Translation, value: Value, *, scalar: bool = False) -> str:
    """Return the name of the ONNX value that contains sizes. A constant becomes a vector, unless `scalar` is set."""
    if value.array is not None:
        array = value.array.astype(np.int64)
        return t.builder.constant(array if scalar else array.reshape(-1))
    if not value.sizes:
        raise ValueError("expected sizes, got other values")
    return value.name


def _shape(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    return Value(t.builder.node("Shape", [t.transposed(inputs[0], nchw=False).name]), sizes=True, width=inputs[0].width)


def _span(t: Translation, x: Value, begin: int, end: int) -> Value:
    limits = [t.builder.constant(np.array([place], np.int64)) for place in (begin, end)]
    return Value(t.builder.node("Slice", [_sizes(t, x), *limits]), sizes=True)


def _slice(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    begin, count = (int(array_of(value).reshape(())) for value in inputs[1:3])
    return _span(t, inputs[0], begin, begin + count if count >= 0 else _INT64_MAX)


def _strided_slice(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    begin, end, step = (int(array_of(value).reshape(())) for value in inputs[1:4])
    masks = {key: value.i for key, value in attributes_of(node).items() if key.endswith("_mask") and value.i}
    if step != 1 or "ellipsis_mask" in masks or "new_axis_mask" in masks:
        raise ValueError("more than a plain slice")
    begin = 0 if "begin_mask" in masks else begin
    if "shrink_axis_mask" in masks:
        place = t.builder.constant(np.array(begin, np.int64))
        return Value(t.builder.node("Gather", [_sizes(t, inputs[0]), place], axis=0), sizes=True)
    return _span(t, inputs[0], begin, _INT64_MAX if "end_mask" in masks else end)


def _pack(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    raised = [_expand_dims(t, node, [value]).name for value in inputs]
    return Value(t.builder.node("Concat", raised, axis=0), sizes=True)


def _expand_dims(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    """Turn one size into a vector with one element; the axis can only be the first."""
    axis = t.builder.constant(np.zeros(1, np.int64))
    return Value(t.builder.node("Unsqueeze", [_sizes(t, inputs[0], scalar=True), axis]), sizes=True)


def _prod(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    attributes = attributes_of(node)
    keep = int("keep_dims" in attributes and attributes["keep_dims"].b)
    return Value(t.builder.node("ReduceProd", [_sizes(t, inputs[0])], axes=[0], keepdims=keep), sizes=True)


def _identity(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    return inputs[0]


def _training_switch(t: Translation, node: Any, inputs: Sequence[Value]) -> Value:
    """Translate `PlaceholderWithDefault` to False if it is boolean (`phase_train`), else to its default."""
    if inputs[0].array is not None and inputs[0].array.dtype == np.bool_:
        return Value("", array=np.zeros((), np.bool_))
    return inputs[0]


_FOLDING = {"BiasAdd", "Add", "AddV2", "Mul", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Identity"}

_HANDLERS: dict[str, Callable[[Translation, Any, Sequence[Value]], Value]] = {
    "Placeholder": _placeholder,
    "PlaceholderWithDefault": _training_switch,
    "Const": _constant,
    "Identity": _identity,
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
    "Relu": _unary(lambda x: np.maximum(x, 0), "Relu"),
    "Concat": _axis_first_concat,
    "ConcatV2": _concat,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "MatMul": _matmul,
    "FusedBatchNorm": _batch_norm,
    "FusedBatchNormV2": _batch_norm,
    "FusedBatchNormV3": _batch_norm,
    "Square": _unary(np.square, "Mul"),
    "Sum": _reduce("ReduceSum"),
    "Mean": _reduce("ReduceMean"),
    "Sqrt": _unary(np.sqrt, "Sqrt"),
    "Rsqrt": _unary(lambda x: 1 / np.sqrt(x), "Sqrt", "Reciprocal"),
    "Shape": _shape,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "Pack": _pack,
    "ExpandDims": _expand_dims,
    "Prod": _prod,
}
