"""Infers the input an ONNX network expects from its graph: from the size of the input and the scaling inside."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.formats.onnx_model import parse_model, read_tensor

_LARGEST = 4.0  # networks are trained on values within ±4, even if scaled by the mean and deviation of each colour
_SMALLEST = 0.4  # the range of the values that networks are trained on is at least this large
_UINT8 = 2  # ONNX's number for the type
_AFFINE = ("Sub", "Add", "Mul", "Div")
_SAME = ("Identity", "Cast", "Transpose")  # operators that change no value
_DOMAINS = ("", "ai.onnx", "com.microsoft")  # of built-in operators; other domains are functions defined in the file
_REORDER = ("Slice", "Gather", "Split")

Numbers = npt.NDArray[np.float64]


def spec_of_onnx(data: bytes, *, source: str) -> tuple[InputSpec, str]:
    """Infer the `InputSpec` of an ONNX network whose input is an image; return it with a text that says from what.

    An input of 112 px means ArcFace, and one of 160 px means FaceNet. If the graph first computes a·x + b from its
    input x, a and b show the range of x: it is 0 to 255 if a·x + b maps this range to about −1 to 1, or 0 to 1 if it
    maps that range to about −1 to 1. Raises `ModelError` for any other size or scaling, and if the graph reorders the
    colours of an input that is not uint8, because the order that it expects is then unknown.
    """
    graph = parse_model(data, source).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    sides = set(shape[2:] if len(shape) == 4 and shape[1] == 3 else shape[1:3])
    by_size = {spec.size: name for name, spec in INPUT_SPECS.items() if name not in ("facenet-2017", "sface")}
    preset = by_size.get(sides.pop()) if len(shape) == 4 and len(sides) == 1 else None
    if preset is None:
        raise ModelError(f"{source}: the input spec cannot be inferred from its input's shape; {_ASK}")
    spec = INPUT_SPECS[preset]
    reason = f"inferred from its {spec.size} px input"
    (scale, shift), reorders = leading_scaling(graph, inputs[0].name)
    if reorders and inputs[0].type.tensor_type.elem_type != _UINT8:
        raise ModelError(f"{source}: it reorders the colours, so the order it expects is unknown; {_ASK}")
    if any(inputs[0].name in node.input and node.domain not in _DOMAINS for node in graph.node):
        raise ModelError(f"{source}: a function of its own reads the image and may scale it; {_ASK}")
    scaled = with_scaling(spec, scale, shift, source=source)
    return scaled, reason if scaled == spec else f"{reason} and the scaling inside it"


def graph_scaling(data: bytes, *, source: str) -> tuple[Numbers, Numbers]:
    """Return a and b if a graph first computes a·x + b from its input x, else 1 and 0.

    `data` is a TensorFlow 1 graph, translated to ONNX.
    """
    graph = parse_model(data, source).graph
    return leading_scaling(graph, graph.input[0].name)[0] if graph.input else (np.ones(1), np.zeros(1))


def spec_of_graph(scaling: tuple[Numbers, Numbers], *, source: str) -> tuple[InputSpec, str]:
    """Return the `InputSpec` of a TensorFlow 1 graph, and a text that says where it comes from.

    The spec is `facenet-2018`, with a different standardization if the graph scales images itself.
    """
    spec, reason = INPUT_SPECS["facenet-2018"], "the default for TensorFlow 1"
    scaled = with_scaling(spec, *scaling, source=source)
    return scaled, reason if scaled == spec else f"{reason}, adapted to the scaling inside it"


def scales(scale: Numbers, shift: Numbers) -> bool:
    """Return whether scale·x + shift differs from x.

    >>> scales(np.ones(1), np.zeros(1)), scales(np.ones(3), np.full(3, -127.5))
    (False, True)
    """
    return not ((scale == 1).all() and (shift == 0).all())


def with_scaling(spec: InputSpec, scale: Numbers, shift: Numbers, *, source: str) -> InputSpec:
    """Return `spec` adapted to a network that standardizes its input x itself, by scale·x + shift (`leading_scaling`).

    The new `spec` only scales colours to the range of x, 0 to 255 or 0 to 1. If scale·x + shift is x, return `spec`
    unchanged. Raises `ModelError` if the range of x cannot be inferred.
    """
    if not scales(scale, shift):
        return spec
    for largest in (255.0, 1.0):
        if _fits(scale, shift, largest):
            return dataclasses.replace(spec, standardization="fixed", mean=0.0, std=255.0 / largest)
    raise ModelError(
        f"{source}: it begins with {scale.flat[0]:g}·x + {shift.flat[0]:g}, which fits neither colours of 0 to 255 nor "
        f"of 0 to 1; {_ASK}"
    )


def _fits(scale: Numbers, shift: Numbers, largest: float) -> bool:
    """Return whether scale·x + shift brings colours from 0 to `largest` into the range that networks are trained on."""
    spread = scale * largest
    near_one = max(np.abs(shift).max(), np.abs(spread + shift).max()) <= _LARGEST and np.abs(spread).min() >= _SMALLEST
    with np.errstate(all="ignore"):
        middle = -shift / scale
    if largest == 255:  # a shift by about half the range, even without division, also means plain colours
        return bool(near_one or ((middle >= 64) & (middle <= 192)).all())
    # Colours of 0 to 1 must be shifted by about half their range; other values may have been scaled before.
    return bool(near_one and ((middle >= 0.3) & (middle <= 0.7)).all())


_ASK = f"give --input-spec {'|'.join(INPUT_SPECS)}|FILE.json"


@np.errstate(all="ignore")  # constants that are not finite never fit
def leading_scaling(graph: Any, value: str) -> tuple[tuple[Numbers, Numbers], bool]:
    """Return ((a, b), whether colours are reordered) for a graph that begins with a·x + b; x is its input `value`.

    a and b are one number or one per channel; they are 1 and 0 if the graph does not scale. The search follows Sub,
    Add, Mul and Div with constants, operators that change no value, and operators that split or reorder the colours.
    """
    constants = _constants(graph)
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in set(node.input) if node.op_type != "Shape" else ():
            users.setdefault(name, []).append(node)
    scale, shift = np.ones(1), np.zeros(1)
    reorders = False
    for _ in range(len(graph.node)):  # bounded, because a damaged graph may contain a cycle
        if len(users.get(value, ())) != 1:
            break
        (node,) = users[value]
        if node.op_type in _REORDER and node.input[0] == value and len(node.output) == 1:
            reorders = True
        elif node.op_type in _AFFINE and len(node.input) == 2:
            other = node.input[1] if node.input[0] == value else node.input[0]
            number = constants.get(other)
            if number is None or (node.op_type == "Div" and (node.input[0] != value or not number.all())):
                break
            if node.op_type in ("Mul", "Div"):
                factor = number if node.op_type == "Mul" else 1 / number
                scale, shift = scale * factor, shift * factor
            elif node.op_type == "Add":
                shift = shift + number
            elif node.input[0] == value:
                shift = shift - number
            else:
                scale, shift = -scale, number - shift
        elif node.op_type not in _SAME:
            break
        value = node.output[0]
    return (scale, shift), reorders


def _constants(graph: Any) -> dict[str, Numbers]:
    """Return the constants of a graph (initializers and `Constant` nodes) that have one number, or one per channel."""
    found: dict[str, Numbers] = {}

    def keep(name: str, tensor: Any) -> None:
        if math.prod(tensor.dims) in (1, 3):
            try:
                found[name] = read_tensor(tensor, name).astype(np.float64).reshape(-1)
            except ModelError:
                return  # a constant of an unsupported type cannot be part of the scaling

    for tensor in graph.initializer:
        keep(tensor.name, tensor)
    for node in graph.node:
        if node.op_type == "Constant" and len(node.output) == 1:
            for attribute in node.attribute:
                if attribute.name == "value":
                    keep(node.output[0], attribute.t)
                elif attribute.name == "value_float":
                    found[node.output[0]] = np.array([attribute.f])
        elif node.op_type in _SAME and len(node.input) == 1 and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found
