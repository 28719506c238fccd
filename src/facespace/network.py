"""One compiled network on the fastest runtime of this machine.

ONNX Runtime is always there. On x86-64 the OpenVINO execution provider is installed beside it and is taken
when it loads: two to ten times faster, and in bfloat16 where the processor computes with it (AMX, AVX512-BF16).

Two environment variables pin what is otherwise chosen, for comparisons and for hunting a difference:
`FACESPACE_RUNTIME` = `openvino` | `onnxruntime` and `FACESPACE_PRECISION` = `fastest` | `float32`.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from facespace.errors import ModelError, RuntimeUnavailable

Precision = Literal["fastest", "float32"]
_OPENVINO = "OpenVINOExecutionProvider"


class Network:
    """A compiled ONNX model.

    `precision="fastest"` lets the runtime compute in bfloat16 where that is quicker; `"float32"` never does.
    `runtime` and `precision` (attributes) say what is really used: `openvino` or `onnxruntime`, `float32` or
    `bfloat16`. `threads` is how many cores one call may use, all by default. Safe to share between threads.
    """

    def __init__(
        self, model: bytes, *, source: str, precision: Precision = "fastest", threads: int | None = None
    ) -> None:
        import onnxruntime

        wanted = _choice("FACESPACE_RUNTIME", ("openvino", "onnxruntime"))
        device = None if wanted == "onnxruntime" else openvino_device()
        if wanted == "openvino" and device is None:
            raise RuntimeUnavailable(
                f"FACESPACE_RUNTIME=openvino, but OpenVINO cannot be used here: {openvino_problem()}"
            )
        if _choice("FACESPACE_PRECISION", ("fastest", "float32")) == "float32":
            precision = "float32"

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; the runtime's own lines stay off stderr
        self.runtime = "onnxruntime"
        self.precision = "float32"
        if device is not None:
            self.runtime = "openvino"
            capabilities = device.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()
            if precision == "fastest" and "BF16" in capabilities:
                self.precision = "bfloat16"
            hint = {"float32": "f32", "bfloat16": "bf16"}[self.precision]
            config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
            if threads is not None:  # unpinned, or the calls of several threads would queue for one core
                config |= {"INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}
            options.add_provider_for_devices([device], {"load_config": json.dumps({"CPU": config})})
        else:
            options.intra_op_num_threads = threads or usable_cores()
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=None if device is not None else ["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises a class per failure and shares no base but Exception
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{source}: the network cannot be compiled ({reason})") from None
        self.inputs = {value.name: list(value.shape) for value in self._session.get_inputs()}
        self.outputs = {value.name: list(value.shape) for value in self._session.get_outputs()}

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        """The network's outputs for inputs given in the order of `self.inputs`."""
        feed = dict(zip(self.inputs, inputs, strict=True))
        outputs: list[npt.NDArray[np.float32]] = self._session.run(None, feed)
        return outputs


def _choice(variable: str, allowed: tuple[str, ...]) -> str | None:
    value = os.environ.get(variable)
    if value and value not in allowed:
        raise RuntimeUnavailable(f"{variable} must be one of {', '.join(allowed)}; it is {value!r}")
    return value or None


def usable_cores() -> int:
    """Cores this process may run on: a container's or a scheduler's limit counts, not the machine's size."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _openvino() -> tuple[Any, str]:
    """The OpenVINO CPU device of ONNX Runtime, or None with the reason."""
    try:
        plugin = importlib.import_module("onnxruntime_ep_openvino")
    except ImportError:
        return None, "the package onnxruntime-ep-openvino is not installed"
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return None, f"onnxruntime {onnxruntime.__version__} has no plugin interface"
    try:
        onnxruntime.register_execution_provider_library("facespace_openvino", plugin.get_library_path())
        for device in onnxruntime.get_ep_devices():
            kind = device.device.type == onnxruntime.OrtHardwareDeviceType.CPU
            if kind and device.ep_name == _OPENVINO:
                return device, ""
    except Exception as error:  # a library that does not load must not stop the plain runtime
        return None, str(error).strip().splitlines()[0]
    return None, "it reports no CPU device"


def openvino_device() -> Any:
    """The device to compile for, or None where OpenVINO cannot be used."""
    return _openvino()[0]


def openvino_problem() -> str:
    """Why OpenVINO is not used; empty where it is."""
    return _openvino()[1]
