"""Adds preprocessing and postprocessing to an ONNX graph: the arithmetic of its `InputSpec`, and unit length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.faces.input_spec import InputSpec
from facespace.formats.onnx_model import add_tensor, describe, new_node, parse_model

UINT8, FLOAT = 2, 1  # ONNX's numbers for types of elements
_FLOOR = 1e-10  # a shorter vector is divided by this instead of its length


def with_preprocessing(data: bytes, spec: InputSpec, *, source: str, unit: bool) -> bytes:
    """Turn an ONNX model that takes preprocessed images into one that takes uint8 crops (N,S,S,3) RGB, S = `spec.size`.

    The computation of `spec.preprocess` is added before the network. With `unit`, the first output is divided by its
    length; the result is the output `embeddings`. Other outputs are removed. A model that already takes uint8 crops is
    returned unchanged. Raises `ModelError` if the input is not images, (N,3,S,S) or (N,S,S,3) float32, or if their size
    differs from that of `spec`.
    """
    model = parse_model(data, source)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or not graph.output:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(f"{source}: the network must have one input of images and an output, got the inputs {names}")
    shape = _shape(inputs[0])
    channels_first = _channels_first(shape, spec, source)
    kind = inputs[0].type.tensor_type.elem_type
    if kind == UINT8 and not channels_first:
        return data
    if kind != FLOAT:
        raise ModelError(f"{source}: the input {inputs[0].name} must be float32 images, got type {kind}")

    taken = {value.name for value in [*graph.input, *graph.output]} | constants
    taken.update(name for node in graph.node for name in [*node.input, *node.output])
    writer = _Writer(model, taken)
    crops = writer.fresh("crops")
    value = writer.preprocessing(crops, spec, channels_first=channels_first)
    writer.node("Identity", [value], output=inputs[0].name)
    before = list(writer.nodes)
    writer.nodes.clear()
    old = graph.output[0]
    if unit:
        writer.unit_length(old.name)
    after = list(writer.nodes)

    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    dimensions = _shape(old)
    batch: int | str = shape[0]
    kept = [value for value in graph.input if value.name in constants]
    del graph.input[:]
    graph.input.extend(kept)
    describe(graph.input.add(name=crops), np.uint8, [batch, spec.size, spec.size, 3])
    if unit:
        del graph.output[:]
        describe(graph.output.add(name=writer.result), np.float32, [batch, *dimensions[1:]])
    else:
        del graph.output[1:]
    model.ir_version = max(model.ir_version, 4)  # before version 4 every constant had to be an input
    return bytes(model.SerializeToString())


class _Writer:
    """Creates new operators for one graph in the form that its opset requires."""

    def __init__(self, model: Any, names: set[str]) -> None:
        self.graph = model.graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
        self.names = names
        self.nodes: list[Any] = []
        self.result = ""

    def fresh(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = self.fresh("preprocessing_constant")
        add_tensor(self.graph, name, array)
        return name

    def number(self, value: float) -> str:
        return self.constant(np.asarray(value, np.float32))

    def node(self, op: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:
        output = output or self.fresh(f"preprocessing_{op}")
        self.nodes.append(new_node(op, output, inputs, attributes))
        return output

    def reduce(self, op: str, value: str, axes: Sequence[int]) -> str:
        """Add a reduction over `axes`, which keep length 1, and return its output.

        The axes are an input from opset 13 (`ReduceSum`) or 18 (others) on, and an attribute before.
        """
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.node(op, [value, self.constant(np.array(axes, np.int64))], keepdims=1)
        return self.node(op, [value], axes=list(axes), keepdims=1)

    def preprocessing(self, crops: str, spec: InputSpec, *, channels_first: bool) -> str:
        x = self.node("Cast", [crops], to=FLOAT)
        if spec.channel_order == "BGR":
            x = self.node("Gather", [x, self.constant(np.array([2, 1, 0], np.int64))], axis=3)
        if channels_first:
            x = self.node("Transpose", [x], perm=[0, 3, 1, 2])
        if spec.standardization == "fixed":
            x = self.node("Sub", [x, self.number(spec.mean)])
            return self.node("Mul", [x, self.number(1 / spec.std)])
        centred = self.node("Sub", [x, self.reduce("ReduceMean", x, [1, 2, 3])])
        variance = self.reduce("ReduceMean", self.node("Mul", [centred, centred]), [1, 2, 3])
        floor = self.number(1 / math.sqrt(3 * spec.size**2))
        return self.node("Div", [centred, self.node("Max", [self.node("Sqrt", [variance]), floor])])

    def unit_length(self, features: str) -> None:
        length = self.node("Sqrt", [self.reduce("ReduceSum", self.node("Mul", [features, features]), [1])])
        self.result = self.fresh("embeddings")
        self.node("Div", [features, self.node("Max", [length, self.number(_FLOOR)])], output=self.result)


def _shape(value: Any) -> list[int | str]:
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "n" for dim in value.type.tensor_type.shape.dim]


def _channels_first(shape: Sequence[int | str], spec: InputSpec, source: str) -> bool:
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3):
        raise ModelError(f"{source}: the input must be (N,3,H,W) or (N,H,W,3), got {list(shape)}")
    channels_first = shape[3] != 3
    for side in shape[2:] if channels_first else shape[1:3]:
        if isinstance(side, int) and side != spec.size:
            raise ModelError(f"{source}: its input must have {spec.size} px as in its input spec, got {side} px")
    return channels_first
