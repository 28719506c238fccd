"""What an ONNX network wants to see, as far as its graph tells: the size of its input, and the scaling inside."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.formats.onnx_model import parse_model, read_tensor

_LARGEST = 4.0  # what a network is trained on lies within ±4, be it scaled by colour's mean and deviation
_SMALLEST = 0.4  # and is spread over more than this
_UINT8 = 2  # ONNX's number for the type
_AFFINE = ("Sub", "Add", "Mul", "Div")
_SAME = ("Identity", "Cast", "Transpose")  # what changes no number
_DOMAINS = ("", "ai.onnx", "com.microsoft")  # of operators; others name functions that a file holds itself
_REORDER = ("Slice", "Gather", "Split")

Numbers = npt.NDArray[np.float64]


def spec_of_onnx(data: bytes, *, source: str) -> tuple[InputSpec, str]:
    """The `InputSpec` of an ONNX network of images, and what told it, in words.

    112 px are ArcFace's, 160 px FaceNet's. Where the graph begins with arithmetic of its own, a·x + b, its numbers tell
    what x is: if they bring 0 to 255 near ±1, plain colours; if they bring 0 to 1 there, colours divided by 255.
    Raises `ModelError` where neither is so, and where the graph exchanges colours, as it does not say for which order.
    """
    graph = parse_model(data, source).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim] if inputs else []
    sides = set(shape[2:] if len(shape) == 4 and shape[1] == 3 else shape[1:3])
    by_size = {spec.size: name for name, spec in INPUT_SPECS.items() if name not in ("facenet-2017", "sface")}
    preset = by_size.get(sides.pop()) if len(shape) == 4 and len(sides) == 1 else None
    if preset is None:
        raise ModelError(f"{source}: its input does not tell what it was trained to see; {_ASK}")
    spec = INPUT_SPECS[preset]
    told = f"as its {spec.size} px input"
    (scale, shift), reorders = beginning(graph, inputs[0].name)
    if reorders and inputs[0].type.tensor_type.elem_type != _UINT8:
        raise ModelError(f"{source}: it exchanges colours, which does not tell in what order it wants them; {_ASK}")
    if any(inputs[0].name in node.input and node.domain not in _DOMAINS for node in graph.node):
        raise ModelError(f"{source}: its image goes into a function of its own, which may scale it; {_ASK}")
    scaled = with_scaling(spec, scale, shift, source=source)
    return scaled, f"{told} tells" if scaled == spec else f"{told} and the scaling inside it tell"


def graph_scaling(data: bytes, *, source: str) -> tuple[Numbers, Numbers]:
    """The a and b of a·x + b that a TensorFlow 1 graph in ONNX computes of its images before all else."""
    graph = parse_model(data, source).graph
    return beginning(graph, graph.input[0].name)[0] if graph.input else (np.ones(1), np.zeros(1))


def spec_of_graph(scaling: tuple[Numbers, Numbers], *, source: str) -> tuple[InputSpec, str]:
    """The same for a TensorFlow 1 graph: `facenet-2018`, the default, and plain colours where it scales them."""
    spec, told = INPUT_SPECS["facenet-2018"], "the default for TensorFlow 1"
    scaled = with_scaling(spec, *scaling, source=source)
    return scaled, told if scaled == spec else f"{told}, and the scaling inside it tells"


def scales(scale: Numbers, shift: Numbers) -> bool:
    """Whether scale·x + shift is another than x.

    >>> scales(np.ones(1), np.zeros(1)), scales(np.ones(3), np.full(3, -127.5))
    (False, True)
    """
    return not ((scale == 1).all() and (shift == 0).all())


def with_scaling(spec: InputSpec, scale: Numbers, shift: Numbers, *, source: str) -> InputSpec:
    """`spec` with the numbers a network wants that begins with scale·x + shift, as `beginning` finds it.

    Itself where that is x. Raises `ModelError` where the numbers do not tell.
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
    """Whether scale·x + shift makes of colours from 0 to `largest` what networks are trained on."""
    spread = scale * largest
    near_one = max(np.abs(shift).max(), np.abs(spread + shift).max()) <= _LARGEST and np.abs(spread).min() >= _SMALLEST
    with np.errstate(all="ignore"):
        middle = -shift / scale
    if largest == 255:  # who takes off half of it and does not divide has such colours as well
        return bool(near_one or ((middle >= 64) & (middle <= 192)).all())
    # Colours of 0 to 1 are told by their middle: any other shift may be of numbers that were scaled before.
    return bool(near_one and ((middle >= 0.3) & (middle <= 0.7)).all())


_ASK = f"give --input-spec {'|'.join(INPUT_SPECS)}|FILE.json"


@np.errstate(all="ignore")  # constants that are no finite numbers fit nothing
def beginning(graph: Any, value: str) -> tuple[tuple[Numbers, Numbers], bool]:
    """The a and b of a·x + b, each one number or one a channel, that a graph computes of its input before all else.

    Sub, Add, Mul and Div with constants are followed, and what changes no number. With it comes whether colours are
    then, or in between, taken apart or put in another order.
    """
    constants = _constants(graph)
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in set(node.input) if node.op_type != "Shape" else ():
            users.setdefault(name, []).append(node)
    scale, shift = np.ones(1), np.zeros(1)
    reorders = False
    for _ in range(len(graph.node)):  # a graph that leads back to itself is none, but must not keep us
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
    """The constants of a graph, initializers and nodes, that are one number or three, one for each channel."""
    found: dict[str, Numbers] = {}

    def keep(name: str, tensor: Any) -> None:
        if math.prod(tensor.dims) in (1, 3):
            try:
                found[name] = read_tensor(tensor, name).astype(np.float64).reshape(-1)
            except ModelError:
                return  # of a type that is not read: no number to reckon with

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
