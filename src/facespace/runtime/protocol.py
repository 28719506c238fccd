"""The protocol of a compiled network, for all runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Network(Protocol):
    """A compiled network. Safe to share between threads.

    `inputs` and `outputs` map names to shapes, in which a free size is a string. `runtime` is the runtime and device
    (`openvino`, `onnxruntime`, `torch-cuda`), `precision` the number format (`float32`, `bfloat16`, `int8`).
    `takes_uint8`: the preprocessing is part of the network. `wants_parts`: `run_parts` is the faster way to compute
    several batches.
    """

    runtime: str
    precision: str
    takes_uint8: bool

    @property
    def inputs(self) -> Mapping[str, Sequence[int | str]]:
        """Names and shapes of the inputs."""

    @property
    def outputs(self) -> Mapping[str, Sequence[int | str]]:
        """Names and shapes of the outputs."""

    @property
    def wants_parts(self) -> bool:
        """Whether `run_parts` computes its parts in parallel."""

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """Return the outputs for inputs in the order of `self.inputs`."""

    def run_parts(self, parts: Iterable[npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """Return the first output for each of several batches of the one input."""
