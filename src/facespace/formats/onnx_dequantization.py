"""Converts block-quantised ONNX weights back to float32, because runtimes reject files that contain them.

OpenCV Zoo publishes such networks: 8-bit integers with a scale and a zero point for every block of numbers along one
axis (`DequantizeLinear` with `block_size`, ONNX opset 21).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.formats.onnx_model import add_tensor, copied, read_tensor
from facespace.io.protobuf import MAX_WEIGHTS
from facespace.io.text import plain_text

Array = npt.NDArray[Any]


def is_block_quantized(graph: Any) -> bool:
    """Return whether a GraphProto has block-quantised weights."""
    return any(node.op_type == "DequantizeLinear" and _attribute(node, "block_size") for node in graph.node)


def dequantize_blocks(graph: Any, source: str) -> None:
    """Replace the block-quantised weights of a GraphProto by float32 constants, in place.

    A weight is (q − zero point) · scale, with one scale per block of `block_size` numbers along `axis`. A scalar scale
    belongs to the whole tensor, even though OpenCV Zoo's files give it a block size. A Reshape of a
    block-quantised weight is replaced too. Dropout nodes are removed, because the converter of these files raised the
    opset but left these nodes in an older form. The graph's inputs no longer list constants, or values that no node
    reads. A batch size of one becomes free, because no layer of a convolutional network depends on it. Raises
    `ModelError` if scales or shapes do not fit, or if the result is too large.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    computed: dict[str, Array] = {}
    kept: list[Any] = []
    renamed: dict[str, str] = {}
    n_bytes = 0
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = renamed.get(name, name)
        if node.op_type in ("DequantizeLinear", "Reshape", "Dropout") and not (node.input and node.output):
            raise ModelError(f"{source}: an operator {node.op_type} has no input or no output")
        if node.op_type == "DequantizeLinear" and _attribute(node, "block_size"):
            inputs = [_constant(constants, name, node, source) for name in node.input]
            n_bytes += 4 * inputs[0].size
            if n_bytes > MAX_WEIGHTS:
                raise ModelError(f"{source}: more than {MAX_WEIGHTS} bytes of weights once they are float32")
            computed[node.output[0]] = _dequantized(node, inputs, source)
        elif node.op_type == "Reshape" and node.input[0] in computed and node.input[-1] in constants:
            computed[node.output[0]] = _reshaped(node, computed, constants, source)
        elif node.op_type == "Dropout" and len(node.output) == 1:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    outputs = {value.name for value in graph.output}
    if lost := outputs & (computed.keys() | renamed.keys()):
        raise ModelError(f"{source}: its output {plain_text(min(lost))} is not computed by a layer of the network")
    # Nodes are views into the list `graph.node`, so they are copied before the list is cleared.
    nodes = [copied(node) for node in kept]
    needed = {name for node in nodes for name in node.input} | outputs
    _replace(graph.node, nodes)
    _replace(graph.initializer, [copied(tensor) for tensor in graph.initializer if tensor.name in needed])
    written = sorted(computed.keys() & needed)
    if sum(computed[name].nbytes for name in written) > MAX_WEIGHTS:  # one weight may be reshaped many times
        raise ModelError(f"{source}: more than {MAX_WEIGHTS} bytes of weights once they are float32")
    for name in written:
        add_tensor(graph, name, computed[name])
    constant = {tensor.name for tensor in graph.initializer}
    _replace(graph.input, [copied(value) for value in graph.input if value.name in needed - constant])
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) in (2, 4) and dims[0].dim_value == 1:
            dims[0].dim_value, dims[0].dim_param = 0, "n"


def _replace(repeated: Any, values: list[Any]) -> None:
    del repeated[:]
    repeated.extend(values)


def _attribute(node: Any, name: str, default: int = 0) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _constant(constants: dict[str, Any], name: str, node: Any, source: str) -> Array:
    if name not in constants:
        raise ModelError(f"{source}: {plain_text(node.output[0])} is block-quantised but is not a constant")
    return read_tensor(constants[name], source)


@np.errstate(all="ignore")  # scales that are not finite give weights that are not finite
def _dequantized(node: Any, inputs: list[Array], source: str) -> Array:
    """Return the float32 weight of one `DequantizeLinear`; inputs are integers, scales and, optionally, zero points."""
    name = plain_text(node.output[0])
    if not 2 <= len(inputs) <= 3 or inputs[0].dtype.kind not in "iu" or inputs[1].dtype.kind != "f":
        raise ModelError(f"{source}: {name} must have integers, float scales and zero points, got {len(inputs)} inputs")
    values = inputs[0].astype(np.float32)
    parts = [part.astype(np.float32) for part in inputs[1:]]
    if any(part.shape != parts[0].shape for part in parts):
        raise ModelError(f"{source}: {name} has scales of shape {parts[0].shape} and zero points of {parts[-1].shape}")
    if parts[0].size == 1:
        parts = [part.reshape(()) for part in parts]
    else:
        block, axis = _attribute(node, "block_size"), _attribute(node, "axis", 1)
        axis = axis + values.ndim if axis < 0 else axis
        good = 0 <= axis < values.ndim and block > 0
        expected = tuple(-(-n // block) if k == axis else n for k, n in enumerate(values.shape)) if good else ()
        if not good or parts[0].shape != expected:
            raise ModelError(
                f"{source}: {name} has shape {values.shape} and blocks of {block} along axis {axis}, "
                f"but scales of shape {parts[0].shape}"
            )
        if values.shape[axis] % block == 0:
            # Give blocks an axis of their own, so that no scale is repeated in memory.
            split = (*values.shape[:axis], -1, block, *values.shape[axis + 1 :])
            return _scaled(values.reshape(split), [np.expand_dims(part, axis + 1) for part in parts]).reshape(
                values.shape
            )
        # `take` rather than `repeat`, because a block may be far longer than the axis.
        places = np.arange(values.shape[axis]) // block
        parts = [part.take(places, axis=axis) for part in parts]
    return _scaled(values, parts)


def _scaled(values: Array, parts: list[Array]) -> Array:
    """Compute (values − zero point) · scale in place; `parts` are the scale and, optionally, the zero point."""
    if len(parts) == 2:
        values -= parts[1]
    values *= parts[0]
    return values


def _reshaped(node: Any, computed: dict[str, Array], constants: dict[str, Any], source: str) -> Array:
    array, new_shape = computed[node.input[0]], read_tensor(constants[node.input[-1]], source)
    if new_shape.dtype.kind != "i" or new_shape.size > 8:
        name = plain_text(node.output[0])
        raise ModelError(f"{source}: {name} has a shape of {new_shape.size} numbers of type {new_shape.dtype}")
    shape = [int(size) for size in new_shape.reshape(-1)]
    try:
        shape = [array.shape[k] if size == 0 else size for k, size in enumerate(shape)]
        return array.reshape(shape)
    except (ValueError, IndexError):
        raise ModelError(
            f"{source}: {plain_text(node.output[0])} cannot be reshaped from {array.shape} to {tuple(shape)}"
        ) from None
