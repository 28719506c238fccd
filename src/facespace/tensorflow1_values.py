"""What a TensorFlow 1 graph's values become on their way to ONNX: constants, sizes, feature maps, and weights that wait.

Feature maps are kept as (N,C,H,W) inside, as the runtimes want them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facespace.onnx_graph import GraphBuilder


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the ONNX graph, or something not yet written to it; maps are (N,C,H,W) when `nchw`.

    A constant waits as `array`, a convolution as `conv`: what scales and shifts its channels next is folded
    into its weights (`y = s·(k∗x + b) + t = (s·k)∗x + (s·b + t)`), and the runtime has one operator instead
    of three. `sizes` marks what was computed from a tensor's shape: int64, one number or several. `width` is the D of
    (N,D), or of a shape that says so, where it is known.
    """

    name: str
    nchw: bool = False
    sizes: bool = False
    array: npt.NDArray[Any] | None = None
    conv: Conv | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution of the ONNX value `source` that is not written yet."""

    source: str
    kernel: npt.NDArray[np.float64]  # (out, in, height, width)
    bias: npt.NDArray[np.float64]  # (out,)
    attributes: dict[str, Any]

    def affine(self, scale: npt.NDArray[Any], shift: npt.NDArray[Any]) -> Value:
        """The same with each output channel times `scale` and plus `shift`, numbers or one for each."""
        scale = np.broadcast_to(scale, self.bias.shape).astype(np.float64)
        kernel = self.kernel * scale[:, None, None, None]
        return Value("", True, conv=Conv(self.source, kernel, self.bias * scale + shift, self.attributes))


class Translation:
    """The ONNX graph that comes about, and the values of the nodes so far."""

    def __init__(self, graph: dict[str, Any], source: str) -> None:
        self.graph = graph
        self.source = source
        self.builder = GraphBuilder()
        self.values: dict[str, Value] = {}
        self.n_values = 0  # of the constants so far
        self.has_images = False
        self.batch = -1  # images in one run, where the placeholder fixes it

    def written(self, value: Value) -> Value:
        """`value` with its convolution, if one is waiting, written to the graph."""
        if value.conv is None:
            return value
        weights = [self.builder.constant(array.astype(np.float32)) for array in (value.conv.kernel, value.conv.bias)]
        return Value(self.builder.node("Conv", [value.conv.source, *weights], **value.conv.attributes), nchw=True)

    def transposed(self, value: Value, *, nchw: bool) -> Value:
        """`value`, written, with its channels second (`nchw`) or last; `ValueError` for a constant or sizes."""
        value = self.written(value)
        if value.array is not None or value.sizes:
            raise ValueError("feature maps were expected, a constant came")
        if value.nchw == nchw:
            return value
        perm = [0, 3, 1, 2] if nchw else [0, 2, 3, 1]
        return Value(self.builder.node("Transpose", [value.name], perm=perm), nchw)


def array_of(value: Value) -> npt.NDArray[Any]:
    """The array of a constant; `ValueError` for anything else."""
    if value.array is None:
        raise ValueError("a constant was expected, a computed value came")
    return value.array
