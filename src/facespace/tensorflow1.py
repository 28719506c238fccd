"""Translates TensorFlow 1 graphs to ONNX.

Feature maps are kept as (N,C,H,W) inside, as the runtimes want them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.graphdef import IMAGES, MAX_VALUES, Graph, attributes_of, constant, inference_order, inputs_of
from facespace.onnx_graph import GraphBuilder

_BOOL = 10  # TensorFlow's number for the type of a truth value


def to_onnx(graph: Graph, *, source: str, output: str = "embeddings") -> bytes:
    """An ONNX model of the inference path from the image placeholder to `output`.

    Its input is `images` (N,H,W,3) float32 as the graph's own placeholder wants them, its output `features`
    (N,D) float32. Raises `ModelError` naming the first operator that is not understood.
    """
    if output not in graph:
        raise ModelError(f"{source}: no node called {output!r}; a FaceNet graph ends in 'embeddings'")
    translation = _Translation(graph, source)
    for name in inference_order(graph, output, source):
        translation.translate(graph[name])
    builder = translation.builder
    features = translation.transposed(translation.value(output), nchw=False)
    builder.output(features.name, "features", np.float32, ["n", "d"])
    return builder.serialize()


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
        self.n_values = 0  # of the constants so far
        self.has_images = False

    def value(self, name: str) -> _Value:
        return self.values[name]

    def translate(self, node: Any) -> None:
        handler = _placeholder if node.name == IMAGES else _HANDLERS.get(node.op)
        if handler is None:
            raise ModelError(f"{self.source}: operator {node.op} ({node.name}) is not supported")
        inputs = [
            self.values[name]
            for name, port in inputs_of(self.graph, node, self.source)
            if name in self.values and not (port == 1 and self.graph[name].op == "Switch")
        ]
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
    attributes = attributes_of(node)
    if node.name != IMAGES and "dtype" in attributes and attributes["dtype"].type == _BOOL:
        return _Value("", array=np.zeros((), np.bool_))  # `phase_train`, as the 2018 trainer leaves it
    if t.has_images:
        raise ModelError(f"{t.source}: a second input, {node.name}, where one of images was expected")
    t.has_images = True
    name = t.builder.input("images", np.float32, ["n", "height", "width", 3])
    return t.transposed(_Value(name), nchw=True)


def _constant(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    array = constant(node, t.source)
    t.n_values += array.size
    if t.n_values > MAX_VALUES:
        raise ModelError(f"{t.source}: its constants have more than {MAX_VALUES} values")
    return _Value("", array=array)


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


def _conv(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    x = t.transposed(inputs[0], nchw=True)
    kernel = _array(inputs[1]).transpose(3, 2, 0, 1).astype(np.float64)
    attributes = attributes_of(node)
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
                return conv.affine(weights, np.zeros(1)) if op == "Mul" else conv.affine(np.ones(1), weights)
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
    attributes = attributes_of(node)
    key = "squeeze_dims" if "squeeze_dims" in attributes else "axis"
    axes = [int(axis) for axis in attributes[key].list.i]
    x = t.transposed(inputs[0], nchw=False)
    return _Value(t.builder.node("Squeeze", [x.name, t.builder.constant(np.array(axes, np.int64))]))


def _matmul(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    attributes = attributes_of(node)
    if any(key in attributes and attributes[key].b for key in ("transpose_a", "transpose_b")):
        raise ValueError("transposed operands")
    weights = t.builder.constant(np.ascontiguousarray(_array(inputs[1]), np.float32))
    return _Value(t.builder.node("MatMul", [inputs[0].name, weights]))


def _batch_norm(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
    x = inputs[0]
    gamma, beta, mean, variance = (_array(value).astype(np.float64) for value in inputs[1:5])
    variance = variance + float(attributes_of(node)["epsilon"].f)
    if not (variance > 0).all():
        raise ValueError("a variance that is not positive")
    scale = gamma / np.sqrt(variance)
    shift = beta - mean * scale
    if x.conv is not None:
        return x.conv.affine(scale, shift)
    scaled = t.builder.node("Mul", [x.name, t.builder.constant(_broadcast(scale, x))])
    return _Value(t.builder.node("Add", [scaled, t.builder.constant(_broadcast(shift, x))]), x.nchw)


def _reduce(op: str) -> Callable[[_Translation, Any, Sequence[_Value]], _Value]:
    def handler(t: _Translation, node: Any, inputs: Sequence[_Value]) -> _Value:
        x = t.transposed(inputs[0], nchw=False)
        axes = [int(axis) for axis in np.atleast_1d(_array(inputs[1]))]
        keep = int(attributes_of(node)["keep_dims"].b)
        if op == "ReduceSum":  # opset 13 moved its axes from an attribute to an input
            return _Value(t.builder.node(op, [x.name, t.builder.constant(np.array(axes, np.int64))], keepdims=keep))
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
